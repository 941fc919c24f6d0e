"""What a source holds before a video is opened: lines of lists to be, and what there is to say."""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from ffn_edge.errors import counted

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_EXAMPLES = 5  # that are named of many


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a list to be.

    Attributes:
        video: the path of a video file, or of a folder with one image a frame.
        label: the name of its class.
        split: "train", "val" or "test"; "" where the source does not say.
        start_s: where the part that is meant begins, in seconds of the video.
        end_s: where it ends.
    """

    video: str
    label: str
    split: str = ""
    start_s: float = 0.0
    end_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a user should know: what was found, and what was done.

    Attributes:
        kind: for machines, such as "no class".
        text: for people, in one sentence.
        examples: names, a few of all.
    """

    kind: str
    text: str
    examples: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class Found:
    """What a source holds.

    Attributes:
        lines: in the order in which they are to be written.
        dataset: its name in `ffn_edge.train.datasets.DATASETS`.
        classes: in the order of an official list or a class file; None for natural order.
        findings: what there is to say.
        folders: those of the videos that are folders of images.
        layout: what the source was taken for, in words.
    """

    lines: list[Line] = field(default_factory=list)
    dataset: str = "custom"
    classes: tuple[str, ...] | None = None
    findings: list[Finding] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    layout: str = ""

    def say(self, kind: str, text: str, examples: Iterable[str] = ()) -> None:
        """Note a finding; of the examples a few are kept."""
        self.findings.append(Finding(kind, text, tuple(examples)[:_EXAMPLES]))


def split_of(text: str) -> str:
    """Return the split that the name of a folder, a list or a table's cell names; "" for none."""
    words = re.split(r"[^a-z]+", text.lower())
    return next((SPLITS[word] for word in words if word in SPLITS), "")


def group_of(video: str) -> str:
    """Return the name of the recording that a video's own name says it was cut from, or its path.

    UCF101 cuts several clips, `v_Biking_g08_c01`, of one recording, and Kinetics names a file by
    its source and the part, `dQw4w9WgXcQ_000010_000020`.
    """
    stem = os.path.splitext(os.path.basename(video))[0]
    if match := re.fullmatch(r"(.+_g\d+)_c\d+", stem) or re.fullmatch(
        r"([\w-]{11})_\d{6}_\d{6}", stem
    ):
        return match[1]
    return video


def merge_spellings(found: Found) -> None:
    """Make one class of those whose names differ in case, or in how an umlaut is encoded, alone."""
    spelled: dict[str, Counter[str]] = defaultdict(Counter)
    for line in found.lines:
        # Not casefold(), to which "Maße" is "Masse".
        spelled[_same(line.label)][line.label] += 1
    chosen = {key: counts.most_common(1)[0][0] for key, counts in spelled.items()}
    if found.classes is not None:
        official = {_same(name): name for name in found.classes}
        chosen = {key: official.get(key, name) for key, name in chosen.items()}
    several = {key: counts for key, counts in spelled.items() if len(counts) > 1}
    if several:
        found.say(
            "spelling",
            f"{counted(len(several), 'class', 'classes')} spelled in several ways: kept as one, "
            "under the more frequent",
            (f"{' and '.join(counts)} as {chosen[key]}" for key, counts in several.items()),
        )
    found.lines = [replace(line, label=chosen[_same(line.label)]) for line in found.lines]


def _same(label: str) -> str:
    return unicodedata.normalize("NFC", label).lower().strip()
