"""From a folder of videos, or a list, to a data folder: looked at, reported, split."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from ffn_edge.device.cores import usable_processors
from ffn_edge.errors import DataError, FfnEdgeError, counted, printable
from ffn_edge.files.atomic import atomic_folder, check_writable
from ffn_edge.files.regular_file import read_text
from ffn_edge.files.schema import load
from ffn_edge.files.text_file import read_table
from ffn_edge.media.video_list import natural_order
from ffn_edge.progress import OnProgress
from ffn_edge.train.data_folder import CLASSES, REPORT, check_output
from ffn_edge.train.scan.duplicates import (
    SHARES,
    Signature,
    Union,
    candidates,
    identical_files,
    same_content,
)
from ffn_edge.train.scan.folders import LIST_SUFFIXES, Folder, by_folders, walk
from ffn_edge.train.scan.found import Found, Line, group_of, merge_spellings
from ffn_edge.train.scan.lists import CLASS_FILES, Index, by_lists
from ffn_edge.train.scan.look import Looked, look, pictures_at
from ffn_edge.train.scan.official import by_official_lists
from ffn_edge.train.scan.page import page_of
from ffn_edge.train.scan.pool import shared
from ffn_edge.train.scan.report import Report, make_report
from ffn_edge.train.scan.split import split_by_group

_LIST_DEPTH = 3  # folders below the source, where lists are looked for
_THUMBNAILS = 300  # on a page, in all: about 2 MB
_OF_A_CLASS = 8
_EDGE_S = 0.05  # a part that ends so little after its video ends with it

Starts = Callable[[str], OnProgress]


def _silent(what: str) -> OnProgress:
    return lambda done, total: None


def scan(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    lists: str | os.PathLike[str] | None = None,
    fold: int = 1,
    val_share: float = 0.2,
    seed: int = 0,
    workers: int | None = None,
    starts: Starts = _silent,
) -> Report:
    """Look at videos, and write lists, classes and a report of them to a data folder.

    Nothing in the source is changed. A data folder that is there is replaced; its videos stay on
    the side where they were, with the same seed and share.

    Args:
        source: a folder of videos, or a list of them.
        output: the data folder.
        lists: a list, or a folder of lists, that names the videos of the source.
        fold: of UCF101's and HMDB51's lists.
        val_share: of the clips, for validation, where the source has none.
        seed: of the split.
        workers: processes that look; None for as many as there are processors.
        starts: is told what begins, such as "looking", and returns who is told how far it is.

    Raises:
        DataError: there is no video with a class, a list is wrong, or the output holds something
            else.
        WriteError: the output cannot be written.
    """
    source, output = os.path.abspath(source), Path(output)
    folder = os.path.dirname(source) if os.path.isfile(source) else source
    check_output(output)
    check_writable(output)
    workers = usable_processors() if workers is None else workers
    found = find(source, output, lists, fold)
    merge_spellings(found)
    _drop_unwritable(found)
    videos = list(dict.fromkeys(line.video for line in found.lines))
    if not videos:
        # What was done with them does not matter now.
        reasons = "; ".join(finding.text.partition(":")[0] for finding in found.findings)
        raise DataError(
            f"there is no video with a class in {source}" + (f": {reasons}" if reasons else ""),
            "give each class a folder of videos, or list them in a table: video,start_s,end_s,"
            "label.",
        )
    thumbnails = _chosen(found.lines)
    tasks = [(video, video in found.folders, video in thumbnails) for video in videos]
    lost = Looked(reason="its decoder ended the process that looked at it")
    results = shared(look, tasks, workers, starts("looking at videos"), lost=lost)
    looked = dict(zip(videos, results, strict=True))
    readable = [video for video in videos if not looked[video].reason]
    union = joined(readable, [looked[video] for video in readable], found.folders, workers, starts)
    _fit_parts(found, looked)
    if not found.lines:
        why = [each.reason for each in looked.values() if each.reason]
        raise DataError(
            f"of {counted(len(videos), 'video')} in {source} not one can be used: "
            + "; ".join(why[:3] or (finding.text for finding in found.findings)),
            "copy them again, or correct the times in the list.",
        )
    groups = _groups(readable, union, folder)
    _split(found, groups, output, val_share, seed)
    copies: dict[int, list[str]] = defaultdict(list)
    for number, video in enumerate(readable):
        copies[union.of(number)].append(video)
    report = make_report(
        source=source,
        folder=folder,
        found=found,
        looked=looked,
        copies=[each for each in copies.values() if len(each) > 1],
        groups=groups,
        settings={"seed": seed, "val_share": val_share, "output": os.fspath(output)},
    )
    _write(output, found, report, looked)
    return report


def find(source: str, output: Path, lists: str | os.PathLike[str] | None, fold: int) -> Found:
    """Return what a source holds, before a video is opened.

    Raises:
        DataError: see `scan`.
    """
    found = Found()
    if os.path.isfile(source):
        # What lies beside a list is not its matter, and may be much.
        folder, root, named = os.path.dirname(source), None, [source]
    else:
        folder, root, named = source, walk(source, output, found), []
    if lists is not None:
        named = _lists_at(os.fspath(lists))
    index = Index(folder, cache(lambda: root or walk(folder, output, Found())))
    there = named or (_lists_below(root, _LIST_DEPTH) if root else [])
    beside = [os.path.join(folder, name) for name in root.lists] if root else []
    if by_official_lists(there, index, found, fold):
        pass
    elif by_lists(named or beside, index, found, named=bool(named)):
        if root:
            index.say_unlisted(found)
    elif not root or named:
        raise DataError(
            f"{named[0]} is no list of videos that are there",
            "write a table with the columns video,start_s,end_s,label.",
        )
    else:
        by_folders(root, found)
        if others := [path for path in beside if os.path.basename(path) not in CLASS_FILES]:
            found.say(
                "other lists",
                f"{counted(len(others), 'table or text', 'tables or texts')} that list no labelled "
                "videos: ignored",
                others,
            )
    return found


def _lists_at(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    names = sorted(os.listdir(path), key=natural_order)
    found = [
        os.path.join(path, name)
        for name in names
        if os.path.splitext(name)[1].lower() in LIST_SUFFIXES and not name.startswith(".")
    ]
    if not found:
        raise DataError(f"{path} holds no list", "name the list itself with --lists.")
    return found


def _lists_below(folder: Folder, depth: int) -> list[str]:
    found = [os.path.join(folder.path, name) for name in folder.lists]
    if depth:
        for each in folder.folders:
            found += _lists_below(each, depth - 1)
    return found


def _drop_unwritable(found: Found) -> None:
    """Leave out what could not stand in a list, or in a file of classes."""
    odd = [
        line
        for line in found.lines
        for text in [f"{line.video}|{line.label}"]
        if printable(text) != text or "\n" in text or line.video != line.video.strip()
    ]
    if odd:
        found.say(
            "odd names",
            f"{counted(len(odd), 'video')} left out, whose names, or whose class's, cannot stand "
            "in a list: they have control characters, end with a space, or are no text in UTF-8",
            (printable(repr(line.video)) for line in odd),
        )
        left_out = set(odd)
        found.lines = [line for line in found.lines if line not in left_out]


def _chosen(lines: Sequence[Line]) -> set[str]:
    """Return the videos of which the page shows a picture: some of each class, spread evenly."""
    by_label: dict[str, dict[str, None]] = defaultdict(dict)
    for line in lines:
        by_label[line.label][line.video] = None
    each = max(1, min(_OF_A_CLASS, _THUMBNAILS // len(by_label)))
    chosen: set[str] = set()
    for videos in list(by_label.values())[:_THUMBNAILS]:
        names = list(videos)
        count = min(each, len(names))
        chosen.update(names[i * len(names) // count] for i in range(count))
    return chosen


def joined(
    videos: Sequence[str],
    looked: Sequence[Looked],
    folders: set[str],
    workers: int,
    starts: Starts = _silent,
) -> Union:
    """Return which videos show the same.

    Args:
        videos: their paths.
        looked: what was seen of each; all can be read.
        folders: those of the videos that are folders of images.
        workers: see `scan`.
        starts: the same.
    """
    union = Union(len(videos))
    for a, b in identical_files(videos, looked):
        union.join(a, b)
    # Of equal files, one stands for all.
    pairs = [each for each in candidates(looked) if union.of(each[0]) != union.of(each[1])]

    if pairs:
        numbers = sorted({number for a, b, _ in pairs for number in (a, b)})
        tasks = [(videos[i], videos[i] in folders) for i in numbers]
        made = shared(signature, tasks, workers, starts("looking at likely copies"), lost=None)
        pictures = {i: each for i, each in zip(numbers, made, strict=True) if each is not None}
        pairs = [each for each in pairs if each[0] in pictures and each[1] in pictures]
        compared = [(pictures[a], pictures[b], crop) for a, b, crop in pairs]
        same = shared(same_content, compared, workers, starts("comparing them"), lost=False)
        for (a, b, _), is_same in zip(pairs, same, strict=True):
            if is_same:
                union.join(a, b)
    return union


def signature(path: str, is_folder: bool) -> Signature | None:
    """Return the pictures by which a video is compared; None if it cannot be read."""
    with suppress(FfnEdgeError, OSError, ValueError):
        return pictures_at(path, is_folder, SHARES).round().astype(np.uint8)
    return None


def _fit_parts(found: Found, looked: dict[str, Looked]) -> None:
    """Bring parts into their videos; leave out lines that cannot be read, are empty, or double."""
    outside, clamped, whole, double, untimed = [], [], [], [], []
    lines: dict[Line, None] = {}
    for line in found.lines:
        each = looked[line.video]
        if each.reason:
            continue
        where = f"{os.path.basename(line.video)} {line.start_s:g}..{line.end_s:g} s"
        is_part = line.start_s > 0 or line.end_s < math.inf
        if is_part and line.video in found.folders:
            untimed.append(where)
            line = replace(line, start_s=0.0, end_s=math.inf)
        elif is_part:
            span_s = line.end_s - line.start_s
            if line.end_s > each.length_s + 1 and abs(span_s - each.length_s) <= 0.1 * span_s:
                whole.append(where)
                line = replace(line, start_s=0.0, end_s=math.inf)
            elif line.start_s >= min(line.end_s, each.length_s):
                outside.append(where)
                continue
            elif line.end_s > each.length_s:
                if each.length_s + _EDGE_S < line.end_s < math.inf:
                    clamped.append(where)
                line = replace(line, end_s=math.inf)
        if line in lines:
            double.append(where)
        lines[line] = None
    found.lines = list(lines)
    for kind, text, names in (
        ("outside", "empty, or outside their video: left out", outside),
        ("clamped", "ending after their video: cut at its end", clamped),
        ("cut before", "of videos that are as long as the part: taken as cut already", whole),
        ("no times", "of folders of images, which have no times: taken whole", untimed),
        ("double", "in the lists twice: kept once", double),
    ):
        if names:
            found.say(kind, f"{counted(len(names), 'part')} {text}", names)
    _say_overlaps(found)


def _say_overlaps(found: Found) -> None:
    by_video: dict[str, list[Line]] = defaultdict(list)
    for line in found.lines:
        by_video[line.video].append(line)
    overlaps: list[str] = []
    two_labels: list[str] = []
    for video, lines in by_video.items():
        lines.sort(key=lambda line: (line.start_s, line.end_s))
        last = lines[0]  # of those before, the one that ends last
        for line in lines[1:]:
            if line.start_s < last.end_s:
                (overlaps if line.label == last.label else two_labels).append(
                    f"{os.path.basename(video)} at {line.start_s:g} s"
                )
            last = max(last, line, key=lambda each: each.end_s)
    if overlaps:
        found.say(
            "overlaps",
            f"{counted(len(overlaps), 'part')} overlapping another of the same class: kept, on one "
            "side of the split",
            overlaps,
        )
    if two_labels:
        found.say(
            "two classes",
            f"{counted(len(two_labels), 'part')} overlapping one of another class: kept; a network "
            "cannot learn both of the same frames",
            two_labels,
        )


def _groups(videos: Sequence[str], union: Union, folder: str) -> dict[str, str]:
    """Return by video the name of its group: of copies, or of clips of one recording."""
    recordings = Union(len(videos))
    first: dict[str, int] = {}
    for number, video in enumerate(videos):
        recordings.join(number, union.of(number))
        recordings.join(number, first.setdefault(group_of(video), number))
    members: dict[int, list[str]] = defaultdict(list)
    for number, video in enumerate(videos):
        members[recordings.of(number)].append(os.path.relpath(video, folder))
    names = {number: min(each) for number, each in members.items()}
    return {video: names[recordings.of(number)] for number, video in enumerate(videos)}


def _split(found: Found, groups: dict[str, str], output: Path, val_share: float, seed: int) -> None:
    """Give each line its split."""
    there = {line.split for line in found.lines} - {""}
    if all(line.split in ("val", "test") for line in found.lines):
        found.say("no training half", "no video is of a half for training: split anew")
        found.lines = [replace(line, split="") for line in found.lines]
        there = set()
    elif "test" in there and "val" not in there:
        found.say(
            "test as val",
            "there is a half for testing and none for validation: it validates, as the protocols "
            "of such sets do",
        )
        found.lines = [
            replace(line, split="val") if line.split == "test" else line for line in found.lines
        ]
        there.add("val")
    # Lines without a split join the training where there are two halves already.
    free = [i for i, line in enumerate(found.lines) if line.split in ("", "train")]
    if "val" not in there:
        before = _before(output, groups, val_share, seed)
        val = split_by_group(
            [found.lines[i].label for i in free],
            [groups[found.lines[i].video] for i in free],
            share=val_share,
            seed=seed,
            before=before,
        )
        chosen = {free[i] for i in val}
    else:
        chosen = set()
    found.lines = [
        replace(line, split="val" if i in chosen else line.split or "train")
        for i, line in enumerate(found.lines)
    ]


def _before(output: Path, groups: dict[str, str], val_share: float, seed: int) -> dict[str, bool]:
    """Return how an earlier scan to the same folder divided the groups; nothing by another seed."""
    try:
        told = load(read_text(output / REPORT, 1 << 30))["settings"]
        if (told["seed"], told["val_share"]) != (seed, val_share):
            return {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    sides: dict[str, bool] = {}
    for name in ("train", "val"):
        with suppress(DataError):
            rows = read_table(output / f"{name}.csv", "a list of a scan", "video,...")
            for row in filter(None, rows[1:]):
                path = os.path.normpath(os.path.join(os.path.realpath(output), row[0]))
                sides[path] = name == "val" and sides.get(path, True)
    before: dict[str, bool] = {}
    for video, group in groups.items():
        path = os.path.normpath(video)
        if path in sides:
            # Two groups that have become one train: what trained must not validate.
            before[group] = sides[path] and before.get(group, True)
    return before


def _write(output: Path, found: Found, report: Report, looked: dict[str, Looked]) -> None:
    pictures = {video: each.thumbnail for video, each in looked.items() if each.thumbnail}
    folder = os.path.realpath(output)
    with atomic_folder(output) as temporary:
        for split in report.facts.clips:
            lines = [line for line in found.lines if line.split == split]
            text = _table(lines, folder, found.folders, looked)
            (temporary / f"{split}.csv").write_text(text, encoding="utf-8")
        (temporary / CLASSES).write_text(_classes_text(report.classes), encoding="utf-8")
        content = json.dumps(report.fields(), indent=1, ensure_ascii=False)
        (temporary / REPORT).write_text(content + "\n", encoding="utf-8")
        page = page_of(report, found.lines, pictures)
        (temporary / "report.html").write_text(page, encoding="utf-8")


def _table(lines: Sequence[Line], folder: str, folders: set[str], looked: dict[str, Looked]) -> str:
    names = ["video", "start_s", "end_s", "label"]
    with_frames = any(line.video in folders for line in lines)
    made = io.StringIO()
    writer = csv.writer(made, lineterminator="\n")
    writer.writerow([*names, "num_frames"] if with_frames else names)
    for line in lines:
        row = [
            _from_folder(line.video, folder),
            f"{line.start_s:.10g}" if line.start_s else "",
            f"{line.end_s:.10g}" if line.end_s < math.inf else "",
            line.label,
        ]
        if with_frames:
            row.append(str(looked[line.video].frames) if line.video in folders else "")
        writer.writerow(row)
    return made.getvalue()


def _from_folder(video: str, folder: str) -> str:
    """Return a path from the data folder, where both lie in one folder below the root."""
    if os.path.commonpath((video, folder)) == os.path.sep:
        return video
    return os.path.relpath(video, folder)


def _classes_text(classes: Sequence[str]) -> str:
    """Return a class file; numbered where names such as "1 wave" would be taken for numbered."""
    numbered = all(name.partition(" ")[0].isdigit() for name in classes)
    return "".join(
        f"{number} {name}\n" if numbered else f"{name}\n" for number, name in enumerate(classes)
    )
