"""What a scan reports: as a table, as JSON, and what follows for training."""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from ffn_edge.errors import counted
from ffn_edge.media.video_list import natural_order
from ffn_edge.train.data_folder import SCHEMA_VERSION, DataFacts
from ffn_edge.train.datasets import DATASETS
from ffn_edge.train.scan.found import Finding, Found, Line
from ffn_edge.train.scan.look import Looked
from ffn_edge.train.scan.sides import mirror_pairs, sided

_FEW = 10  # clips for training, below which a class is hardly learned
_IMBALANCE = 5.0
_LONGEST_WINDOW_S = 10.0
_FRAME_COUNTS = (4, 8, 16)
_SHOWN_CLASSES = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a scan found.

    Attributes:
        source: what was scanned.
        layout: what it was taken for.
        classes: their names, in the order of the labels.
        facts: for training.
        videos: how many were looked at, unreadable ones among them.
        clips: lines of the lists.
        total_s: seconds of video.
        total_bytes: of the files.
        containers: by format: how many videos.
        codecs: the same.
        sizes: by "320x240", the same.
        rates: by frames a second, rounded, the same.
        unreadable: by video, the reason.
        copies: videos that show the same, a group each, with the splits that they are in.
        findings: what there is to know, each with what was done.
        settings: of the scan.
    """

    source: str
    layout: str
    classes: tuple[str, ...]
    facts: DataFacts
    videos: int
    clips: int
    total_s: float
    total_bytes: int
    containers: dict[str, int]
    codecs: dict[str, int]
    sizes: dict[str, int]
    rates: dict[str, int]
    unreadable: dict[str, str]
    copies: tuple[dict[str, str], ...]
    findings: tuple[Finding, ...]
    settings: dict[str, Any]

    @property
    def next_command(self) -> str:
        """The command that trains on what was written; "" where that would learn nothing."""
        clips = self.facts.clips
        if len(self.classes) < 2 or not all(sum(clips[each].values()) for each in ("train", "val")):
            return ""
        return f"ffn-edge train --data {shlex.quote(self.settings['output'])} -o runs/mine"

    def fields(self) -> dict[str, Any]:
        """Return all of it, for JSON."""
        return {
            "schema_version": SCHEMA_VERSION,
            **dataclasses.asdict(self),
            "next": self.next_command,
        }

    def summary(self) -> list[str]:
        """Return what the videos are like, in a few lines."""
        facts = self.facts
        lines = [
            f"{counted(self.videos, 'video')}, {counted(self.clips, 'clip')}, "
            f"{counted(len(self.classes), 'class', 'classes')}; taken as {self.layout}",
            f"formats: {_counts(self.containers)}"
            + (f" ({_counts(self.codecs)}); {_size(self.total_bytes)}" if self.codecs else ""),
        ]
        if facts.seconds is not None:
            low, median, high = facts.seconds
            lines.append(
                f"lengths: 10 % up to {low:.3g} s, median {median:.3g} s, 90 % up to {high:.3g} s; "
                f"{_duration(self.total_s)} in all"
            )
        rates = f"; {_counts(self.rates)} a second" if self.rates else ""
        lines.append(f"frames: {_counts(self.sizes)} pixels{rates}")
        window = "" if facts.window_s is None else f"a window of {facts.window_s:g} s, "
        lines.append(
            f"suggested: {window}{', '.join(map(str, facts.frame_counts))} frames; "
            + _mirror_text(self.classes, facts.mirror)
        )
        return lines

    def finding_texts(self) -> list[str]:
        """Return a line for each finding."""
        return [
            finding.text + (f" ({'; '.join(finding.examples)})" if finding.examples else "")
            for finding in self.findings
        ]

    def table(self, most: int = _SHOWN_CLASSES) -> Table:
        """Return classes by splits, for the terminal; of many classes the largest."""
        table = Table(box=box.SIMPLE_HEAD, show_edge=False)
        table.add_column("class", overflow="fold")
        for split in self.facts.clips:
            table.add_column(split, justify="right")
        *rows, sums = self.rows()
        totals = [sum(map(int, row[1:])) for row in rows]
        largest = sorted(range(len(rows)), key=lambda number: -totals[number])[:most]
        for number in sorted(largest):
            table.add_row(*rows[number])
        table.add_section()
        table.add_row(f"all {len(rows)}" if len(rows) > most else "all", *sums[1:])
        return table

    def rows(self) -> list[list[str]]:
        """Return for each class, and for all, its name and the number of its clips by split."""
        clips = self.facts.clips.values()
        return [
            *([name, *(str(counts[name]) for counts in clips)] for name in self.classes),
            ["all", *(str(sum(counts.values())) for counts in clips)],
        ]


def make_report(
    *,
    source: str,
    folder: str,
    found: Found,
    looked: Mapping[str, Looked],
    copies: Sequence[Sequence[str]],
    groups: Mapping[str, str],
    settings: dict[str, Any],
) -> Report:
    """Return the report of what was found.

    Args:
        source: what was scanned.
        folder: that videos are named from.
        found: with its lines split.
        looked: by video.
        copies: groups of videos that show the same.
        groups: by video, the name of what it was cut from.
        settings: of the scan.
    """
    lines = found.lines
    classes = found.classes or ()
    others = {line.label for line in lines} - set(classes)
    classes = (*classes, *sorted(others, key=natural_order))
    splits = ["train", "val", *(["test"] if any(li.split == "test" for li in lines) else [])]
    counts = Counter((line.split, line.label) for line in lines)
    clips = {split: {name: counts[split, name] for name in classes} for split in splits}
    unreadable = {video: each.reason for video, each in looked.items() if each.reason}
    good = [each for each in looked.values() if not each.reason]
    told = _copies_with_splits(copies, lines)
    _say(found, clips, looked, told, groups, unreadable)
    seconds = [_seconds(line, looked[line.video]) for line in lines]
    facts = _facts(found, classes, clips, lines, looked)
    return Report(
        source=source,
        layout=found.layout,
        classes=classes,
        facts=facts,
        videos=len(looked),
        clips=len(lines),
        total_s=round(sum(seconds), 3),
        total_bytes=sum(each.size_bytes for each in good),
        containers=_most(each.container for each in good),
        codecs=_most(each.codec for each in good if each.codec),
        sizes=_most(f"{each.width}x{each.height}" for each in good),
        rates=_most(f"{each.fps:.3g}" for each in good if each.fps),
        unreadable={os.path.relpath(video, folder): why for video, why in unreadable.items()},
        copies=tuple(
            {os.path.relpath(video, folder): split for video, split in each.items()}
            for each in told
        ),
        findings=tuple(found.findings),
        settings=settings,
    )


def _seconds(line: Line, looked: Looked) -> float:
    return max(0.0, min(line.end_s, looked.length_s) - line.start_s) if looked.length_s else 0.0


def _facts(
    found: Found,
    classes: tuple[str, ...],
    clips: dict[str, dict[str, int]],
    lines: Sequence[Line],
    looked: Mapping[str, Looked],
) -> DataFacts:
    timed = [line for line in lines if looked[line.video].length_s]
    lengths = [_seconds(line, looked[line.video]) for line in timed]
    frames = [
        _seconds(line, each) * each.fps if each.length_s else float(each.frames)
        for line in lines
        for each in [looked[line.video]]
    ]
    rates = [looked[line.video].fps for line in timed]
    sides = [min(looked[line.video].height, looked[line.video].width) for line in lines]
    seconds = window_s = None
    fewest = float(np.quantile(frames, 0.1)) if frames else 0.0
    if lengths:
        low, median, high = (round(float(np.quantile(lengths, q)), 3) for q in (0.1, 0.5, 0.9))
        seconds = (low, median, high)
        window_s = max(0.1, min(_LONGEST_WINDOW_S, round(median, 1)))
        fewest = min(fewest, window_s * float(np.median(rates)))
    mirror = DATASETS[found.dataset].mirror if found.dataset != "custom" else mirror_pairs(classes)
    return DataFacts(
        dataset=found.dataset,
        clips=clips,
        seconds=seconds,
        fps=round(float(np.median(rates)), 3) if rates else 0.0,
        short_side=int(np.median(sides)) if sides else 0,
        window_s=window_s,
        frame_counts=tuple(t for t in _FRAME_COUNTS if t <= fewest + 0.5) or _FRAME_COUNTS[:1],
        mirror=mirror,
    )


def _copies_with_splits(
    copies: Sequence[Sequence[str]], lines: Sequence[Line]
) -> list[dict[str, str]]:
    splits: dict[str, str] = {}
    for line in lines:
        splits.setdefault(line.video, line.split)
    return [{video: splits.get(video, "") for video in each} for each in copies]


def _say(
    found: Found,
    clips: dict[str, dict[str, int]],
    looked: Mapping[str, Looked],
    copies: Sequence[Mapping[str, str]],
    groups: Mapping[str, str],
    unreadable: Mapping[str, str],
) -> None:
    """Note what the look and the split have shown."""
    if unreadable:
        found.say(
            "unreadable",
            f"{counted(len(unreadable), 'video')} cannot be read: left out",
            unreadable.values(),
        )
    if short := [video for video, each in looked.items() if each.stated_s]:
        found.say(
            "cut off",
            f"{counted(len(short), 'video')} shorter than the header says, as copies that were "
            "broken off are: used as far as they go",
            (
                f"{os.path.basename(video)}: {looked[video].length_s:.3g} of "
                f"{looked[video].stated_s:.3g} s"
                for video in short
            ),
        )
    labels: dict[str, set[str]] = defaultdict(set)
    for line in found.lines:
        labels[line.video].add(line.label)
    _say_copies(found, copies, labels)
    _say_leaks(found, copies, groups)
    _say_classes(found, clips, groups)


def _say_copies(
    found: Found, copies: Sequence[Mapping[str, str]], labels: Mapping[str, set[str]]
) -> None:
    def named(group: Iterable[str]) -> str:
        return " = ".join(os.path.basename(video) for video in list(group)[:4])

    inside: list[Mapping[str, str]] = []
    across: list[Mapping[str, str]] = []
    for each in copies:
        (across if len(set(each.values()) - {""}) > 1 else inside).append(each)
    if inside:
        found.say(
            "copies",
            f"{counted(len(inside), 'group')} of videos that show the same "
            f"({counted(sum(map(len, inside)), 'video')}): each kept on one side of the split",
            map(named, inside),
        )
    if across:
        found.say(
            "copies across splits",
            f"{counted(len(across), 'group')} of videos that show the same on two sides of the "
            "split that the source has: not moved; validation is better than it should be",
            map(named, across),
        )
    labelled = [[labels[video] for video in each if video in labels] for each in copies]
    mixed = [
        each
        for each, its in zip(copies, labelled, strict=True)
        if its and not set.intersection(*its)
    ]
    if mixed:
        found.say(
            "copies with two classes",
            f"{counted(len(mixed), 'group')} of videos that show the same, in different classes: "
            "kept; one of the labels is wrong",
            map(named, mixed),
        )


def _say_leaks(
    found: Found, copies: Sequence[Mapping[str, str]], groups: Mapping[str, str]
) -> None:
    """Note recordings on two sides of a split that the source has; copies are told already."""
    told = {groups[video] for each in copies for video in each}
    sides: dict[str, set[str]] = defaultdict(set)
    for line in found.lines:
        sides[groups[line.video]].add(line.split)
    if across := [group for group, each in sides.items() if len(each) > 1 and group not in told]:
        found.say(
            "recordings across splits",
            f"parts or clips of {counted(len(across), 'recording')} on two sides of the split that "
            "the source has: not moved; validation is better than it should be",
            across,
        )


def _say_classes(found: Found, clips: dict[str, dict[str, int]], groups: Mapping[str, str]) -> None:
    train, val = clips["train"], clips["val"]
    total = {name: sum(each[name] for each in clips.values()) for name in train}
    if not any(val.values()):
        found.say("no validation", "no video is left to validate on, which training needs")
    if len(total) == 1:
        found.say("one class", "there is one class; a network needs two to tell apart", total)
    if empty := [name for name, count in total.items() if not count]:
        found.say(
            "empty classes",
            f"{counted(len(empty), 'class', 'classes')} without a clip that can be used",
            empty,
        )
    of_class: dict[str, set[str]] = defaultdict(set)
    for line in found.lines:
        of_class[line.label].add(groups[line.video])
    single = [name for name in total if len(of_class[name]) == 1 and not val[name]]
    if single:
        found.say(
            "one recording",
            f"{counted(len(single), 'class', 'classes')} with one recording: it trains, and "
            "nothing validates the class",
            single,
        )
    if few := [name for name in total if 0 < train[name] < _FEW]:
        found.say(
            "few clips",
            f"{counted(len(few), 'class', 'classes')} with fewer than {_FEW} clips to train on: "
            "hardly learned; record more",
            (f"{name}: {train[name]}" for name in few),
        )
    used = {name: count for name, count in train.items() if count}
    if len(used) > 1 and max(used.values()) >= _IMBALANCE * min(used.values()):
        most, least = max(used, key=used.__getitem__), min(used, key=used.__getitem__)
        found.say(
            "imbalance",
            f"the largest class has {max(used.values()) / min(used.values()):.0f} times the clips "
            "of the smallest",
            [f"{most}: {used[most]}", f"{least}: {used[least]}"],
        )


def _most(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _counts(counts: Mapping[str, int], most: int = 4) -> str:
    """Return "h264 1200, vp9 800", or the value alone where there is one."""
    if len(counts) == 1:
        return next(iter(counts))
    shown = [f"{name} {count}" for name, count in list(counts.items())[:most]]
    return ", ".join(shown) + (", …" if len(counts) > most else "")


def _size(size_bytes: int) -> str:
    power = min(4, int(math.log(max(1, size_bytes), 1000)))
    return f"{size_bytes / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def _mirror_text(classes: Sequence[str], mirror: tuple[tuple[str, str], ...] | None) -> str:
    if mirror is None:
        one_side = next(iter(sided(classes)), "")
        return "no mirroring" + (f", since {one_side!r} has no counterpart" if one_side else "")
    if mirror:
        return (
            "mirroring swaps "
            + ", ".join(f"{a!r} and {b!r}" for a, b in mirror[:3])
            + (", …" if len(mirror) > 3 else "")
        )
    return "mirroring changes no class"
