"""A short run of the demo's recipe by `ffn-edge train`, on clips rendered here.

It is no measurement of accuracy: the losses must fall and the answers be better than guesses.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean

from benchmarks.gpu.report import Report, run_part
from ffn_edge.demo.clips import render_clips
from ffn_edge.demo.scenes import ACTIONS
from ffn_edge.device.cores import usable_processors
from ffn_edge.train.log import METRICS


def main(report: Report) -> None:
    """Render, train, look at the losses and the accuracy."""
    train, val, epochs = (64, 24, 1) if report.dry_run else (960, 240, 16)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clips = folder / "clips"

        def render() -> str:
            begin = time.monotonic()
            render_clips(clips, train=train, val=val, test=0)
            return f"{train} + {val} clips in {time.monotonic() - begin:.0f} s"

        if not report.run("clips are rendered", render):
            return
        command = [sys.executable, "-m", "ffn_edge", "train", "demo", "-o", str(folder / "run")]
        for split in ("train", "val"):
            command += [f"--{split}-list", str(clips / f"{split}.txt")]
        command += ["--classes", str(clips / "classes.txt"), "--epochs", str(epochs), "--json"]
        command += ["--workers", str(min(8, usable_processors()))]
        if report.dry_run:
            command += ["--device", "cpu"]
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        result = json.loads(process.stdout)
        report.row(
            "ffn-edge train demo", True, f"{result['steps']} steps in {result['seconds']:.0f} s"
        )
        lines = [json.loads(line) for line in (folder / "run" / METRICS).read_text().splitlines()]
        losses = [line["loss"] for line in lines if "loss" in line]
        falls = None if report.dry_run else losses[-1] < losses[0]
        report.row("the loss falls", falls, f"{losses[0]:.2f} to {losses[-1]:.2f}")
        accuracy = {frames: value["top1"] for frames, value in result["accuracy"].items()}
        figure = ", ".join(f"{frames} frames {top1:.0%}" for frames, top1 in accuracy.items())
        better = fmean(accuracy.values()) > 2 / len(ACTIONS)
        report.row("right twice as often as a guess", None if report.dry_run else better, figure)


if __name__ == "__main__":
    run_part("the demo's recipe, in short", main)
