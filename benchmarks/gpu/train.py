"""Training and evaluation on CUDA, by the product's own `train` and `evaluate_checkpoint`.

Small videos of noise, dark or bright: what is asked here is whether a step in float16 that
overflows is skipped, whether an interrupted run resumes to the same losses, and whether the GPU
evaluates as the CPU does.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu.report import Report, run_part
from ffn_edge.media.video_writer import VideoWriter
from ffn_edge.network import build, family_of
from ffn_edge.network.checkpoint import load_checkpoint, save_checkpoint
from ffn_edge.train.evaluate import evaluate_checkpoint
from ffn_edge.train.loading import to_model_input
from ffn_edge.train.log import METRICS
from ffn_edge.train.loop import BEST, LAST, train
from ffn_edge.train.recipe import Recipe
from ffn_edge.train.run_state import TrainResult

_VIDEOS = 24
_EXPONENT = 100  # of the scale that overflows in float16, and not in float32
_STOP_AFTER = 5  # steps
# A run resumes as closely as two runs agree that nobody interrupted, give or take.
_TIMES, _AT_LEAST = 4.0, 1e-3
_TF32 = 2e-2  # of the largest logit: TF32 has ten bits of mantissa


def main(report: Report) -> None:
    """Run the checks, one after the other, in a temporary folder."""
    device = "cpu" if report.dry_run else "cuda"
    if report.dry_run:  # with a number of threads that is measured, losses are equal to rounding
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        recipe = _recipe(folder / "data", report.dry_run)
        report.run(
            "float16, clipped: a step that overflows is skipped, and the scale halved",
            lambda: _overflows(recipe, folder / "half", device),
        )
        report.run(
            "an interrupted run resumes to the losses of the uninterrupted one",
            lambda: _resumes(recipe, folder, device),
        )
        report.run(
            "so does a causal one, half of whose steps are streams",
            lambda: _resumes(recipe.replace(causal=True), folder / "causal", device),
        )
        report.run(
            "a checkpoint evaluates as on the CPU",
            lambda: _evaluates(recipe, folder / "whole" / BEST, device),
        )
        report.run("logits are those of the CPU", lambda: _same_logits(report.dry_run, device))
        report.run(
            "a causal network frame by frame is itself on a clip",
            lambda: _steps(report.dry_run, device),
        )


def _recipe(folder: Path, dry_run: bool) -> Recipe:
    """Write the data set; return a recipe of 6 steps an epoch on it."""
    size, epochs = (32, 2) if dry_run else (96, 8)
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(_VIDEOS):
        with VideoWriter(folder / f"{index}.mp4", 10, size, size) as writer:
            base = 60 + 120 * (index % 2)
            for frame in rng.integers(base - 50, base + 50, (10, size, size, 3), dtype=np.uint8):
                writer.write(frame)
    lines = [f"{index}.mp4 {index % 2}\n" for index in range(_VIDEOS)]
    (folder / "list.txt").write_text("".join(lines))
    (folder / "classes.txt").write_text("dark\nbright\n")
    return Recipe(
        architecture="tsm_tiny" if dry_run else "tsm_resnet18",
        dataset="custom",
        train_list=str(folder / "list.txt"),
        val_list=str(folder / "list.txt"),
        classes=str(folder / "classes.txt"),
        frame_counts=(2, 4),
        size=size,
        short_side=size,
        learning_rate=0.01,
        epochs=epochs,
        batch_size=4,
        validate_every=epochs,
    )


def _overflows(recipe: Recipe, folder: Path, device: str) -> str:
    half = recipe.replace(precision="fp16", clip_gradient=1.0)
    _train_until(half, folder, device, steps=_STOP_AFTER)
    losses = list(_losses(folder).values())
    checkpoint = load_checkpoint(folder / LAST)
    training = checkpoint.training
    assert training is not None
    scale = training["scaler"]["scale"]
    training["scaler"]["scale"] = 2.0**_EXPONENT
    save_checkpoint(folder / LAST, checkpoint.network, checkpoint.card, training)
    result = train(half, folder, resume=True, device=device)
    after = load_checkpoint(folder / LAST)
    assert after.training is not None
    skipped = result.steps - training["step"]
    assert after.training["scaler"]["scale"] == 2.0 ** (_EXPONENT - skipped)
    before_parameters = dict(checkpoint.network.named_parameters())
    for name, parameter in after.network.named_parameters():
        assert torch.equal(parameter, before_parameters[name]), f"{name} was changed"
    return (
        f"{len(losses)} steps, loss {losses[0]:.2f} to {losses[-1]:.2f}, scale {scale:g}; then "
        f"{skipped} skipped, to 2^{_EXPONENT - skipped}"
    )


def _resumes(recipe: Recipe, folder: Path, device: str) -> str:
    for name in ("whole", "again"):
        assert train(recipe, folder / name, device=device).finished
    stopped = _train_until(recipe, folder / "broken", device, steps=_STOP_AFTER)
    assert train(recipe, folder / "broken", resume=True, device=device).finished
    whole, again, broken = (_losses(folder / name) for name in ("whole", "again", "broken"))
    assert whole.keys() == broken.keys()
    noise, found = (
        max(abs(other[step] - loss) / max(loss, 0.1) for step, loss in whole.items())
        for other in (again, broken)
    )
    text = (
        f"after {stopped.steps} of {len(whole)} steps: losses {found:.1e} apart at most, two "
        f"uninterrupted runs {noise:.1e}"
    )
    assert found <= max(_TIMES * noise, _AT_LEAST), text
    return text


def _evaluates(recipe: Recipe, checkpoint: Path, device: str) -> str:
    rows = {
        place: evaluate_checkpoint(
            str(checkpoint), [2, 3, 4], list_file=str(recipe.val_list), device=place
        )
        for place in (device, "cpu")
    }
    for here, there in zip(rows[device], rows["cpu"], strict=True):
        # One clip on the fence may fall to either side.
        assert abs(here.top1 - there.top1) < 1.5 / _VIDEOS, rows
    return ", ".join(f"{row.frames} frames {row.top1:.0%}" for row in rows[device])


def _same_logits(dry_run: bool, device: str) -> str:
    torch.manual_seed(0)
    architecture, size = ("tsm_tiny", 32) if dry_run else ("tsm_resnet50", 224)
    network, family = build(architecture, 174).eval(), family_of(architecture)
    worst = 0.0
    for frames in network.frame_counts:
        clip = torch.randint(256, (1, frames, size, size, 3), dtype=torch.uint8)
        with torch.inference_mode():
            expected, found = (
                network.to(place)(to_model_input(clip.to(place), family.mean, family.std)).cpu()
                for place in ("cpu", device)
            )
        worst = max(worst, float((found - expected).abs().max() / expected.abs().max()))
    text = f"{architecture}, float32: {worst:.1e} of the largest logit at most"
    assert worst <= _TF32, text
    return text


def _steps(dry_run: bool, device: str) -> str:
    torch.manual_seed(0)
    architecture, size = ("tsm_tiny", 32) if dry_run else ("tsm_resnet50", 224)
    network = build(architecture, 174, causal=True).eval().to(device)
    worst = 0.0
    for frames in network.frame_counts:
        clip = torch.rand(1, frames, 3, size, size, device=device)
        with torch.inference_mode():
            expected, state, logits = network(clip), None, []
            for frame in clip.unbind(1):
                answer, state = network.step(frame[:, None], state, sub_network=frames)
                logits.append(answer[:, 0])
        found = torch.cat(logits).mean(0, keepdim=True)
        worst = max(worst, float((found - expected).abs().max() / expected.abs().max()))
    text = f"{architecture}, float32: {worst:.1e} of the largest logit at most"
    assert worst <= _TF32, text
    return text


def _train_until(recipe: Recipe, folder: Path, device: str, *, steps: int) -> TrainResult:
    """Train until that many steps are done, and interrupt it as Ctrl-C does."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            if (folder / METRICS).is_file() and len(_losses(folder)) >= steps:
                os.kill(os.getpid(), signal.SIGINT)
                return

    # Should it come too late, it ends nothing.
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        # Saves, and so writes down its losses, after every step.
        result = train(recipe.replace(checkpoint_minutes=0.0), folder, device=device)
    finally:
        done.set()
        watcher.join()
        signal.signal(signal.SIGINT, before)
    assert not result.finished, "it was faster than the interruption"
    return result


def _losses(folder: Path) -> dict[int, float]:
    """Return the losses of a run, by step; a line that is being written is left out."""
    found = {}
    for line in (folder / METRICS).read_text().split("\n")[:-1]:
        values = json.loads(line)
        if "loss" in values:
            found[values["step"]] = values["loss"]
    return found


if __name__ == "__main__":
    run_part("training and evaluation", main)
