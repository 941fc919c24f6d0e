"""A frame count added after training, against one that was trained with the others.

    python -m benchmarks.adaptation --clips demo/clips --work runs/adaptation

On the demo's clips and with its recipe, a network is trained for 4, 8 and 16 frames; `ffn-edge
adapt` then adds 12 frames from a part of the training clips, without their labels. The reference
is the same recipe trained for 4, 8, 12 and 16 frames together. The adapted network's accuracy
should be within 2 points of the reference's, at a tenth of its training time.

Then the network meets another camera, whose pictures are darker and bluer: `ffn-edge adapt
--recalibrate` takes its statistics anew from that camera's clips, again without labels.

CPU time is that of all threads, decoding included, and in training the validation too. Training
that was interrupted goes on where it was, and what is trained already is not trained again.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from ffn_edge.demo.clips import render_clips
from ffn_edge.media.video import VideoReader
from ffn_edge.media.video_writer import VideoWriter
from ffn_edge.train.adapt import EPOCHS, LEARNING_RATE, adapt, recalibrate
from ffn_edge.train.batches import Clips
from ffn_edge.train.evaluate import evaluate_checkpoint
from ffn_edge.train.loop import BEST, LAST, train
from ffn_edge.train.recipe import Recipe, load_recipe

TARGET_POINTS, TARGET_SHARE = 2.0, 0.1
BGR_GAINS = np.array([0.6, 0.5, 0.35], np.float32)
CAMERA_CLIPS = 300


def cpu_seconds_of_training(recipe: Recipe, folder: Path) -> float:
    """Train a recipe in `folder`, or go on with it."""
    result = train(recipe, folder, resume=(folder / LAST).is_file())
    if not result.finished:
        raise KeyboardInterrupt
    return result.cpu_seconds


def first_videos(list_file: Path, count: int, output: Path) -> Path:
    """Write a list of the first videos, without labels. The classes take turns in the demo's."""
    lines = list_file.read_text().splitlines()[:count]
    paths = [list_file.parent.resolve() / line.rsplit(maxsplit=1)[0] for line in lines]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("".join(f"{path}\n" for path in paths))
    return output


def through_another_camera(list_file: Path, count: int, folder: Path) -> Path:
    """Write the first clips of a list as a darker, bluer camera shows them; return their list."""
    lines = list_file.read_text().splitlines()[:count]
    for line in lines:
        name = line.split()[0]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (
            VideoReader(list_file.parent / name) as video,
            VideoWriter(folder / name, video.fps, video.width, video.height) as written,
        ):
            for frame in video:
                written.write((frame * BGR_GAINS + 10).astype(np.uint8))
    output = folder / list_file.name
    output.write_text("".join(f"{line}\n" for line in lines))
    return output


def camera_table(checkpoint: str, clips: Path, work: Path) -> Table:
    """Compare a network on another camera's clips, before and after recalibration."""
    train_list, test_list = (
        through_another_camera(clips / f"{split}.txt", CAMERA_CLIPS, work / "camera")
        for split in ("train", "test")
    )
    recalibrated = str(work / "recalibrated.pt")
    result = recalibrate(
        checkpoint, recalibrated, None, Clips(list_file=str(train_list), dataset="demo")
    )
    table = Table(
        title=f"{CAMERA_CLIPS} test clips through another camera",
        caption=f"Recalibrated on {result.videos} clips without labels in {result.seconds:.0f} s.",
    )
    table.add_column("top-1")
    for frames in result.frame_counts:
        table.add_column(f"{frames} frames", justify="right")
    for name, path in (("before", checkpoint), ("recalibrated", recalibrated)):
        rows = evaluate_checkpoint(path, result.frame_counts, list_file=str(test_list))
        table.add_row(name, *(f"{row.top1:.1%}" for row in rows))
    return table


@click.command()
@click.option("--clips", default="demo/clips", show_default=True, help="Rendered if not there.")
@click.option("--work", default="runs/adaptation", show_default=True, help="Where to train.")
@click.option("--checkpoint", help="A network of 4, 8 and 16 frames; left out, it is trained.")
@click.option("--frames", default=12, show_default=True, help="The frame count to add.")
@click.option("--videos", default=1800, show_default=True, help="To adapt on.")
@click.option("--threads", default=2, show_default=True)
def main(
    clips: str, work: str, checkpoint: str | None, frames: int, videos: int, threads: int
) -> None:
    """Train, adapt, and print accuracy and time."""
    torch.set_num_threads(threads)
    folder, runs = Path(clips), Path(work)
    render_clips(folder)
    recipe = load_recipe("demo").replace(
        train_list=str(folder / "train.txt"),
        val_list=str(folder / "val.txt"),
        classes=str(folder / "classes.txt"),
    )
    if checkpoint is None:
        cpu_seconds_of_training(recipe, runs / "base")
        checkpoint = str(runs / "base" / BEST)

    adapted = str(runs / f"adapted-{frames}.pt")
    data = first_videos(folder / "train.txt", videos, runs / "adapt.txt")
    start = time.process_time()
    adapt(checkpoint, adapted, (frames,), Clips(list_file=str(data), dataset="demo"))
    adapting_s = time.process_time() - start

    together = recipe.replace(frame_counts=tuple(sorted({*recipe.frame_counts, frames})))
    training_s = cpu_seconds_of_training(together, runs / "together")

    highest = max(recipe.frame_counts)
    table = Table(
        title=f"{frames} frames on {recipe.epochs} epochs of the demo's clips",
        caption=f"{describe_machine()}; {threads} threads. Adapted on {videos} clips without "
        f"labels, {EPOCHS} epochs at a learning rate of {LEARNING_RATE}. Targets: within "
        f"{TARGET_POINTS:g} points, at {TARGET_SHARE:g} of the time.",
    )
    for heading in ("network", f"top-1, {frames} frames", f"{highest} frames", "CPU s", "share"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for name, path, seconds in (
        ("not adapted: the nearest sub-network", checkpoint, None),
        ("adapted", adapted, adapting_s),
        ("trained together", str(runs / "together" / BEST), training_s),
    ):
        rows = evaluate_checkpoint(
            path, (frames, highest), list_file=str(folder / "test.txt"), precision="auto"
        )
        times = ("–", "–") if seconds is None else (f"{seconds:.0f}", f"{seconds / training_s:.3f}")
        table.add_row(name, *(f"{row.top1:.1%}" for row in rows), *times)
    console = Console(width=100)
    console.print(table)
    console.print(camera_table(checkpoint, folder, runs))


if __name__ == "__main__":
    main()
