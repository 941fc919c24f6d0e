"""The lists of well-known data sets: UCF101, HMDB51, Kinetics, Something-Something, Jester.

Their formats, as the sets' own pages describe them:

    UCF101     trainlist01.txt    ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1
               testlist01.txt     ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi
               classInd.txt       1 ApplyEyeMakeup
    HMDB51     brush_hair_test_split1.txt    April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1
               0 is in neither half, 1 for training, 2 for testing
    Kinetics   label,youtube_id,time_start,time_end,split
    Something-Something V2   [{"id": "78687", "template": "Holding [something]", ...}, ...]
    Jester, Something-Something V1   34870;Drumming Fingers
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ffn_edge.errors import DataError, counted
from ffn_edge.files.regular_file import read_text
from ffn_edge.files.schema import load
from ffn_edge.files.text_file import MOST_LIST_BYTES, read_lines, read_table
from ffn_edge.media.list_lines import seconds_of
from ffn_edge.train.datasets import DATASETS
from ffn_edge.train.scan.found import Found, Line, split_of
from ffn_edge.train.scan.lists import Index, say_missing

_HEAD = 200  # lines of a file, to tell what it is
_UCF = re.compile(r"(train|test)list0*(\d+)\.txt", re.I)
_HMDB = re.compile(r"(.+)_test_split(\d+)\.txt", re.I)
_IDS = re.compile(r"\d+;?.*")


def by_official_lists(lists: Sequence[str], index: Index, found: Found, fold: int) -> bool:
    """Take lines from a data set's own lists; tell whether there are any.

    Args:
        lists: the paths of files that may be such.
        index: of the videos.
        found: gets what is found.
        fold: of UCF101 and HMDB51, which have three.

    Raises:
        DataError: a list has no such fold, or cannot be read.
    """
    names = {os.path.basename(path).lower(): path for path in lists}
    if ucf := [path for name, path in names.items() if _UCF.fullmatch(name)]:
        _ucf101(ucf, names.get("classind.txt"), index, found, fold)
    elif hmdb := [path for name, path in names.items() if _HMDB.fullmatch(name)]:
        _hmdb51(hmdb, index, found, fold)
    elif kinetics := [path for path in lists if _is_kinetics(path)]:
        _kinetics(kinetics, index, found)
    elif entries := _json_entries(lists):
        _something_v2(entries, index, found)
    elif ids := [path for path in lists if _has_ids(path)]:
        labels = [path for name, path in names.items() if name.endswith("labels.csv")]
        _jester(ids, labels, index, found)
    else:
        return False
    index.say_unlisted(found)
    return True


def _of_fold(paths: Sequence[str], pattern: re.Pattern[str], fold: int) -> list[tuple[str, str]]:
    """Return (first group, path) of the lists of a fold."""
    matches = [(pattern.fullmatch(os.path.basename(path)), path) for path in paths]
    chosen = [(match[1], path) for match, path in matches if match and int(match[2]) == fold]
    if not chosen:
        folds = sorted({int(match[2]) for match, _ in matches if match})
        raise DataError(
            f"the lists have no fold {fold}", f"choose --fold among {', '.join(map(str, folds))}."
        )
    return chosen


def _ucf101(
    paths: Sequence[str], class_file: str | None, index: Index, found: Found, fold: int
) -> None:
    missing: list[str] = []
    for kind, path in _of_fold(paths, _UCF, fold):
        for text in filter(None, read_lines(path, "a list of UCF101", "`path`")):
            name = re.sub(r"\s+\d+$", "", text)
            label, _, base = name.rpartition("/")
            _add(found, index.find(base, folder=label), name, label, split_of(kind), missing)
    names: list[str] = []
    if class_file is not None:
        lines = read_lines(class_file, "the classes of UCF101", "`number name`")
        names = [line.partition(" ")[2].strip() for line in lines if line]
    found.layout = f"UCF101's lists, fold {fold}"
    _official(found, "ucf101", names, missing)


def _hmdb51(paths: Sequence[str], index: Index, found: Found, fold: int) -> None:
    missing: list[str] = []
    unused = 0
    for label, path in _of_fold(paths, _HMDB, fold):
        for text in filter(None, read_lines(path, "a list of HMDB51", "`name 0`, 1 or 2")):
            name, _, use = text.rpartition(" ")
            if use not in ("1", "2"):
                unused += 1
                continue
            split = "train" if use == "1" else "test"
            _add(found, index.find(name.strip(), folder=label), name, label, split, missing)
    if unused:
        found.say("unused", f"{counted(unused, 'video')} of the lists in neither half: left out")
    found.layout = f"HMDB51's lists, fold {fold}"
    _official(found, "hmdb51", [], missing)


def _is_kinetics(path: str) -> bool:
    head = _head(path)
    return bool(head) and {"label", "youtube_id"} <= set(
        head[0].lower().replace('"', "").split(",")
    )


def _kinetics(paths: Sequence[str], index: Index, found: Found) -> None:
    missing: list[str] = []
    for path in paths:
        rows = read_table(path, "a list of Kinetics", "label,youtube_id,time_start,time_end,split")
        names = [cell.lower() for cell in rows[0]]
        by_file = split_of(os.path.splitext(os.path.basename(path))[0])
        for row in filter(None, rows[1:]):
            cells = dict(zip(names, row, strict=False))
            key, label = cells.get("youtube_id", ""), cells.get("label", "")
            try:
                start_s = seconds_of(cells.get("time_start") or "0")
                end_s = seconds_of(cells.get("time_end") or "inf")
            except ValueError as reason:
                raise DataError(f"{path}: {reason}", "write seconds, such as 12.5.") from reason
            whole = end_s < math.inf and f"{key}_{int(start_s):06d}_{int(end_s):06d}"
            # A clip that was cut out, or the whole video under its id.
            cut = index.find(whole, folder=label) if whole else None
            video = cut or index.find(key, folder=label)
            if not label:  # a test list without labels
                continue
            split = split_of(cells.get("split", "")) or by_file
            part = (0.0, math.inf) if cut else (start_s, end_s)
            _add(found, video, key, label, split, missing, *part)
    found.layout = "Kinetics' lists"
    _official(found, "kinetics400", [], missing)


def _json_entries(lists: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return by path the entries of lists like Something-Something's; others are passed over."""
    found = {}
    for path in lists:
        if path.lower().endswith(".json"):
            try:
                entries = load(read_text(path, MOST_LIST_BYTES))
            except (ValueError, OSError):
                continue
            if isinstance(entries, list) and entries and isinstance(entries[0], dict):
                if "id" in entries[0] and "template" in entries[0]:
                    found[path] = [each for each in entries if isinstance(each, dict)]
            elif isinstance(entries, dict) and set(map(str, entries.values())) == set(
                map(str, range(len(entries)))
            ):
                found[path] = [{"class": name, "number": int(n)} for name, n in entries.items()]
    return found if any("id" in each[0] for each in found.values() if each) else {}


def _something_v2(entries: dict[str, list[dict[str, Any]]], index: Index, found: Found) -> None:
    missing: list[str] = []
    names: list[str] = []
    for path, each in entries.items():
        if each and "number" in each[0]:
            names = [one["class"] for one in sorted(each, key=lambda one: one["number"])]
            continue
        split = split_of(os.path.splitext(os.path.basename(path))[0])
        for one in each:
            key = str(one.get("id", ""))
            label = re.sub(r"[\[\]]", "", str(one.get("template", "")))
            if label:
                _add(found, index.find(key), key, label, split, missing)
    found.layout = "Something-Something V2's lists"
    _official(found, "something-v2", names, missing)


def _has_ids(path: str) -> bool:
    head = _head(path)
    return (
        path.lower().endswith(".csv")
        and any(re.fullmatch(r"\d+;\D.*", line) for line in head)
        and all(_IDS.fullmatch(line) for line in head if line)
    )


def _jester(paths: Sequence[str], labels: Sequence[str], index: Index, found: Found) -> None:
    missing: list[str] = []
    for path in paths:
        split = split_of(os.path.splitext(os.path.basename(path))[0])
        for text in filter(None, read_lines(path, "a list of labelled numbers", "`34870;label`")):
            key, _, label = text.partition(";")
            if label.strip():
                _add(found, index.find(key.strip()), key, label.strip(), split, missing)
    names: list[str] = []
    if labels:
        names = [name for name in read_lines(labels[0], "a list of classes", "`label`") if name]
    jester = "Drumming Fingers" in {*names, *(line.label for line in found.lines)}
    found.layout = f"{'Jester' if jester else 'Something-Something V1'}'s lists"
    _official(found, "jester" if jester else "something-v1", names, missing)


def _head(path: str) -> list[str]:
    """Return the first lines of a list, stripped; none of what is no text."""
    if os.path.splitext(path)[1].lower() not in (".csv", ".tsv", ".txt"):
        return []
    try:
        return read_lines(path, "a list", "text")[:_HEAD]
    except DataError:
        return []


def _add(
    found: Found,
    video: Any,
    name: str,
    label: str,
    split: str,
    missing: list[str],
    start_s: float = 0.0,
    end_s: float = math.inf,
) -> None:
    if video is None:
        missing.append(name)
        return
    if video.is_folder:
        found.folders.add(video.path)
    found.lines.append(Line(video.path, label, split, start_s, end_s))


def _official(found: Found, dataset: str, names: Iterable[str], missing: Sequence[str]) -> None:
    """Note the data set's name and order of classes, if all its classes are there."""
    say_missing(found, missing)
    present = {line.label for line in found.lines}
    if len(present) == DATASETS[dataset].num_classes:
        found.dataset = dataset
        found.classes = tuple(names) if present == set(names) else None
    else:
        found.classes = tuple(name for name in names if name in present) or None
        found.say(
            "part of a set",
            f"{counted(len(present), 'class', 'classes')}, and not {DATASETS[dataset].name}'s "
            f"{DATASETS[dataset].num_classes}: taken as a data set of its own",
        )
