"""The demo's data set: short clips of rendered actions as MP4 files, and one long stream of them.

Written once, and then read like any other data set. Training shows the left part of each
photograph; validation, test and the stream show the rest, so that no pixel is in both.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ffn_edge.demo.idle import NOTHING, render_nothing
from ffn_edge.demo.scenes import ACTIONS, FPS, FRAMES, Canvas, Share, render_action
from ffn_edge.device.cores import usable_processors
from ffn_edge.errors import DataError
from ffn_edge.files import schema
from ffn_edge.files.atomic import atomic_folder, write_text
from ffn_edge.files.regular_file import read_text
from ffn_edge.media.opencv import use_one_thread
from ffn_edge.media.video_writer import VideoWriter

CLIP = Canvas(64, 64, scale=1.0)
STREAM = Canvas(320, 240, scale=240 / 64)

TRAINING_SHARE = Share(0.0, 0.6)
TEST_SHARE = Share(0.6, 1.0)

# First in the random seed of each clip, so that no split repeats another's.
_SPLIT_SEEDS = {"train": 0, "val": 1, "test": 2, "stream": 3}

# Describes a folder of clips. Raise "renderer" when a change to the rendering should replace the
# clips that an older version wrote.
_MANIFEST = "clips.json"
_RENDERER = 1


_Clip = tuple[str, int, str]  # split, number and class


@dataclass(frozen=True, slots=True)
class Action:
    """What is done in the stream, from `start_s` to `end_s`."""

    start_s: float
    end_s: float
    label: str


def render_clips(
    folder: str | os.PathLike[str],
    *,
    train: int = 1800,
    val: int = 400,
    test: int = 600,
    nothing: int = 0,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Render clips of 48 frames at 64x64 into `folder`, with list files and class names.

    The folder appears whole or not at all: `train/00000.mp4` and so on, `train.txt`, `val.txt`,
    `test.txt` (lines `path label`) and `classes.txt`. A folder that holds what is asked for is
    left as it is. The clips do not depend on the number of processes that render them.

    Args:
        folder: the data set's folder.
        train: number of training clips.
        val: number of validation clips.
        test: number of test clips.
        nothing: number of training clips more in which no action happens, of a 13th class; the
            other splits get as many for each of their clips.
        seed: decides every clip; not negative.
        workers: processes; as many as there are cores if None, this one alone if 1.
        progress: called with (clips done, clips in all) now and then.

    Raises:
        DataError: scikit-image, which has the photographs, is missing, or `folder` holds
            something else.
        VideoError: a clip cannot be written.
    """
    folder = Path(folder)
    sizes = {"train": train, "val": val, "test": test}
    manifest = {"renderer": _RENDERER, "seed": seed, **sizes}
    classes = ACTIONS if not nothing else (*ACTIONS, NOTHING)
    labels = {split: [i % len(ACTIONS) for i in range(size)] for split, size in sizes.items()}
    if nothing:
        manifest["nothing"] = nothing
        for split, size in sizes.items():
            labels[split] += [len(ACTIONS)] * round(nothing * size / train)
    if _holds(folder, manifest):
        return
    clips = [
        (split, index, classes[label])
        for split, each in labels.items()
        for index, label in enumerate(each)
    ]
    with atomic_folder(folder) as new:
        render = functools.partial(_render_clip, new, seed)
        for done, _ in enumerate(_map(render, clips, workers), start=1):
            if progress is not None and (done % 50 == 0 or done == len(clips)):
                progress(done, len(clips))
        for split, each in labels.items():
            lines = [f"{_clip_name(split, i)} {label}\n" for i, label in enumerate(each)]
            write_text(new / f"{split}.txt", "".join(lines))
        write_text(new / "classes.txt", "".join(f"{name}\n" for name in classes))
        write_text(new / _MANIFEST, json.dumps(manifest, indent=2) + "\n")


def render_stream(
    path: str | os.PathLike[str],
    *,
    seconds: float,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Action, ...]:
    """Write one long video of actions, one every two seconds, and what they are beside it.

    320x240 at 24 frames a second, over the photographs' test part; scaled so that the short side
    is 64, its centre looks like a clip. `path` with the suffix .json lists the actions.

    Args:
        path: of the video; its name ends in .mp4.
        seconds: at least this long; the last action is not cut off.
        seed: decides the actions; not negative.
        progress: called with (actions done, actions in all).

    Returns:
        The actions, in turn.

    Raises:
        DataError: scikit-image, which has the photographs, is missing.
        VideoError: the video cannot be written.
    """
    path = Path(path)
    length_s = FRAMES / FPS
    count = max(1, int(np.ceil(seconds / length_s)))
    rng = np.random.default_rng([_SPLIT_SEEDS["stream"], seed])
    labels: list[str] = []
    while len(labels) < count:  # every action once before any comes again
        labels += [ACTIONS[i] for i in rng.permutation(len(ACTIONS))]
    actions = tuple(
        Action(i * length_s, (i + 1) * length_s, label) for i, label in enumerate(labels[:count])
    )
    with VideoWriter(path, FPS, STREAM.width, STREAM.height) as video:
        for done, action in enumerate(actions, start=1):
            for frame in render_action(action.label, TEST_SHARE, STREAM, rng):
                video.write(frame)
            progress(done, len(actions))
    described = {"fps": FPS, "actions": [asdict(action) for action in actions]}
    write_text(path.with_suffix(".json"), json.dumps(described, indent=2) + "\n")
    return actions


def _render_clip(folder: Path, seed: int, clip: _Clip) -> None:
    split, index, label = clip
    rng = np.random.default_rng([_SPLIT_SEEDS[split], seed, index])
    share = TRAINING_SHARE if split == "train" else TEST_SHARE
    path = folder / _clip_name(split, index)
    # Not for people: read again in every epoch, and three times as fast as H.264.
    with VideoWriter(path, FPS, CLIP.width, CLIP.height, codec="mpeg4") as video:
        for frame in (
            render_nothing(share, CLIP, rng)
            if label == NOTHING
            else render_action(label, share, CLIP, rng)
        ):
            video.write(frame)


def _clip_name(split: str, index: int) -> str:
    return f"{split}/{index:05d}.mp4"


def _map(
    function: Callable[[_Clip], None], clips: list[_Clip], workers: int | None
) -> Iterator[None]:
    """Apply `function` to each clip, in `workers` processes."""
    workers = usable_processors() if workers is None else workers
    if workers == 1:
        yield from map(function, clips)
        return
    # Forking a process that has threads, as PyTorch and OpenCV start, can hang: spawn.
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker
    ) as pool:
        yield from pool.map(function, clips, chunksize=16)


def _start_worker() -> None:
    use_one_thread()
    # Ctrl-C reaches every process; the one that the user started ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the one that started it is gone: it waits for its work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _holds(folder: Path, manifest: dict[str, Any]) -> bool:
    """Tell whether `folder` has the clips of `manifest` already.

    Raises:
        DataError: it is no folder of clips, and would be replaced.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found: object = schema.load(read_text(folder / _MANIFEST))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder} exists and is not a folder of rendered clips",
            "name another folder, or remove this one.",
        ) from error
    return found == manifest
