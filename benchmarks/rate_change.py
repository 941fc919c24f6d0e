"""What a stream loses when its rate changes: with the state kept, cleared, or frames replayed.

    python -m benchmarks.rate_change CHECKPOINT demo

CHECKPOINT is of a causal network that was trained on the demo's clips; `demo` is the folder that
`ffn-edge demo` wrote, whose long stream has known actions. In PyTorch: what is measured is
accuracy, and not time. The first table compares windows: as clips, whose network starts cold, with
the stream, whose network never does. Then, at every second of the stream, the rate changes, and the
answers after it are held against those of a stream that had the new rate all along.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise, permutations
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.machine import describe_machine
from ffn_edge.bundle.bundle import standard_error
from ffn_edge.frames import segment_centres
from ffn_edge.media.picture import prepare_frame
from ffn_edge.media.video import VideoReader
from ffn_edge.network.checkpoint import Checkpoint, load_checkpoint
from ffn_edge.network.ffn import State

WINDOW_S = 2.0
# In seconds after the change: where each of the columns ends.
ENDS_S = (0.5, 1.0, 1.5, 2.0, 3.0)
# No shift of the demo's network remembers more.
MEMORY = 16
REPLAYED = (1, 2, 4, 8)

Floats = npt.NDArray[np.float64]


class Recording:
    """The demo's stream, prepared for the network, and what is done in it."""

    def __init__(self, demo: Path, checkpoint: Checkpoint) -> None:
        card = checkpoint.card
        described = json.loads((demo / "stream.json").read_text(encoding="utf-8"))
        self.window = round(WINDOW_S * described["fps"])
        self.fps = described["fps"]
        with VideoReader(demo / "stream.mp4") as reader:
            pictures = [prepare_frame(each, card.short_side, card.size) for each in reader]
        self.pictures = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
        self.mean = torch.tensor(card.mean).reshape(3, 1, 1)
        self.std = torch.tensor(card.std).reshape(3, 1, 1)
        self.labels = np.zeros(len(pictures), np.int64)  # of each picture
        for action in described["actions"]:
            begin, end = (round(action[key] * self.fps) for key in ("start_s", "end_s"))
            self.labels[begin:end] = card.classes.index(action["label"])

    def frames(self, numbers: npt.NDArray[np.int64]) -> Tensor:
        """Return pictures by their numbers, (B, k): float32 (B, k, 3, H, W), normalised."""
        chosen = self.pictures[torch.from_numpy(numbers)]
        return (chosen.float() / 255 - self.mean) / self.std

    def actions(self, newest: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return what fills the most of the windows that end with these pictures."""
        windows = newest[:, None] - np.arange(self.window)
        return np.asarray([np.bincount(self.labels[each]).argmax() for each in windows])


class Streams:
    """Streams that go side by side, at one rate at a time, and what they have answered."""

    def __init__(self, recording: Recording, checkpoint: Checkpoint, newest: Sequence[int]) -> None:
        self.recording, self.network = recording, checkpoint.network
        self.newest = np.asarray(newest)
        self.state: State | None = None
        self.logits: list[tuple[npt.NDArray[np.int64], int, Floats]] = []

    def step(self, frame_count: int, numbers: npt.NDArray[np.int64], *, keep: bool = True) -> None:
        """Take pictures by their numbers, (B,)."""
        frames = self.recording.frames(numbers[:, None])
        logits, self.state = self.network.step(frames, self.state, frame_count)
        if keep:
            spacing = self.recording.window // frame_count
            self.logits.append((numbers, spacing, logits[:, 0].double().numpy()))

    def answers(self) -> npt.NDArray[np.int64]:
        """Return the classes: the mean over the window, each frame by the time it stands for."""
        newest = self.logits[-1][0]
        total = np.zeros_like(self.logits[-1][2])
        for numbers, spacing, logits in self.logits:
            inside = numbers > newest - self.recording.window
            total += np.where(inside[:, None], spacing * logits, 0)
        return total.argmax(1)


def before(newest: npt.NDArray[np.int64], spacing: int, count: int) -> Iterable[Floats]:
    """Yield the last pictures up to `newest`, (B,), one after the other."""
    for k in reversed(range(count)):
        yield newest - spacing * k


@torch.inference_mode()
def compare_windows(recording: Recording, checkpoint: Checkpoint) -> Table:
    """Hold whole clips against the stream, at the same moments."""
    table = Table(caption="right answers in %, of windows that end at the same moments")
    for heading in ("frames", "windows", "as clips", "as a stream", "the same answer %"):
        table.add_column(heading, justify="right")
    counts = checkpoint.network.frame_counts
    step = recording.window // min(counts)
    ends = np.arange(recording.window, len(recording.labels), step) - 1
    truth = recording.actions(ends)
    for frame_count in counts:
        spacing = recording.window // frame_count
        clips = segment_centres(recording.window, frame_count) - recording.window + 1
        by_clips = np.concatenate(
            [
                checkpoint.network(recording.frames(part[:, None] + clips), frame_count)
                .argmax(1)
                .numpy()
                for part in np.array_split(ends, 16)
            ]
        )
        streams = Streams(recording, checkpoint, [0])
        answers = {}
        for number in range(spacing - 1, len(recording.labels), spacing):
            streams.step(frame_count, np.asarray([number]))
            del streams.logits[:-frame_count]
            answers[number] = streams.answers()[0]
        by_stream = np.asarray([answers[end] for end in ends])
        table.add_row(
            str(frame_count),
            str(len(ends)),
            *(share(found == truth) for found in (by_clips, by_stream)),
            f"{100 * (by_clips == by_stream).mean():.1f}",
        )
    return table


@torch.inference_mode()
def change_rates(recording: Recording, checkpoint: Checkpoint) -> Table:
    """Change from every rate to every other, in each of the ways."""
    table = Table(caption="right answers in %, in parts of the seconds after a change of rate")
    parts = [f"{begin_s:g}–{end_s:g} s" for begin_s, end_s in pairwise((0.0, *ENDS_S))]
    for heading in ("change", "state", *parts):
        table.add_column(heading, justify="right")
    for old, new in permutations(checkpoint.network.frame_counts, 2):
        first = MEMORY * recording.window // min(old, new)
        last = len(recording.labels) - round(max(ENDS_S) * recording.fps) - 1
        changes = np.arange(first, last, round(recording.fps))
        ways = ["new all along", "kept", "cleared", *(f"{k} replayed" for k in REPLAYED)]
        for way in ways:
            right = after_change(recording, checkpoint, changes, old, new, way)
            table.add_row(f"{old} to {new}", way, *right)
        table.add_section()
    return table


def after_change(
    recording: Recording,
    checkpoint: Checkpoint,
    changes: npt.NDArray[np.int64],
    old: int,
    new: int,
    way: str,
) -> list[str]:
    """Return the share of right answers by the time after a change from one rate to another."""
    spacing = recording.window // new
    streams = Streams(recording, checkpoint, changes.tolist())
    ran = new if way == "new all along" else old
    for numbers in before(changes, recording.window // ran, MEMORY):
        streams.step(ran, numbers)
    if way not in ("new all along", "kept"):
        streams.state = None
    if way.endswith("replayed"):
        for numbers in before(changes, spacing, int(way.split()[0])):
            streams.step(new, numbers, keep=False)
    right: list[list[npt.NDArray[np.bool_]]] = [[] for _ in ENDS_S]
    for k in range(1, 1 + round(max(ENDS_S) * recording.fps / spacing)):
        numbers = changes + k * spacing
        streams.step(new, numbers)
        place = int(np.searchsorted(ENDS_S, k * spacing / recording.fps - 1e-9))
        right[place].append(streams.answers() == recording.actions(numbers))
    return [share(np.concatenate(each)) if each else "–" for each in right]


def share(right: npt.NDArray[np.bool_]) -> str:
    """Write a share in %, with its standard error."""
    mean = float(right.mean())
    return f"{100 * mean:.1f} ± {100 * standard_error(mean, right.size):.1f}"


@click.command(help=__doc__)
@click.argument("checkpoint", type=click.Path(exists=True, dir_okay=False))
@click.argument("demo", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(checkpoint: str, demo: Path) -> None:
    """Measure, and print two tables."""
    console = Console(width=120)
    console.print(describe_machine())
    loaded = load_checkpoint(checkpoint)
    recording = Recording(demo, loaded)
    console.print(compare_windows(recording, loaded))
    console.print(change_rates(recording, loaded))


if __name__ == "__main__":
    main()
