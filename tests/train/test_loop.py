"""Training: what it writes, how it stops, and that a resumed run is the uninterrupted one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from ffn_edge.bundle.bundle import Accuracy
from ffn_edge.errors import CheckpointError, DataError, RecipeError, counted
from ffn_edge.network import build
from ffn_edge.network.checkpoint import ModelCard, load_checkpoint, save_checkpoint
from ffn_edge.train.log import METRICS, RunLog
from ffn_edge.train.loop import BEST, LAST, Run, train
from ffn_edge.train.recipe import Recipe


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def start(
    recipe: Recipe, folder: Path, *, resume: bool = False, workers: int = 0
) -> subprocess.Popen[str]:
    """Train in a process of its own, with a checkpoint after every step."""
    code = (
        "import sys; from ffn_edge.train.loop import train; from ffn_edge.train.recipe import *\n"
        f"recipe = {recipe.replace(checkpoint_minutes=0.0)!r}\n"
        f"result = train(recipe, {str(folder)!r}, resume={resume}, workers={workers})\n"
        "sys.exit(0 if result.finished else 130)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # a measured number changes the rounding
    )


def finish(process: subprocess.Popen[str]) -> None:
    _, messages = process.communicate(timeout=120)
    assert process.returncode == 0, messages


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.005)


def steps_in(folder: Path) -> int:
    path = folder / METRICS
    return path.read_text().count('"loss"') if path.is_file() else 0


def steps_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of the optimiser's steps."""
    return [line for line in metrics(folder) if "loss" in line]


def rates(folder: Path) -> list[float]:
    return [line["learning_rate"] for line in steps_of(folder)]


def list_with_broken(folder: Path, data: Path, whole: int, broken: int) -> str:
    """Write a list of videos of which the last cannot be read."""
    lines = "".join(f"{data}/{i % 12}.mp4 {i % 2}\n" for i in range(whole))
    for i in range(broken):
        (folder / f"broken{i}.mp4").write_bytes(b"no video")
        lines += f"{folder}/broken{i}.mp4 0\n"
    (folder / "list.txt").write_text(lines)
    return str(folder / "list.txt")


@pytest.fixture
def everything(recipe: Recipe, tmp_path: Path) -> Recipe:
    """With all that suits small data."""
    torch.manual_seed(9)
    start = tmp_path / "start.pt"
    save_checkpoint(start, build("tsm_tiny", 2, (2, 4)), ModelCard(classes=("dark", "bright")))
    return recipe.replace(
        start_from=str(start),
        freeze=2,
        balanced=True,
        rand_augment=9,
        mixup=0.4,
        cutmix=1.0,
        patience=3,
        accumulate=2,
    )


def validating(patch: pytest.MonkeyPatch, *means: float) -> None:
    """Let an epoch's validation have the top-1 that is given for it."""

    def validate(run: Run) -> dict[int, Accuracy]:
        return {
            t: Accuracy(top1=means[run.state.epoch], top5=1.0, clips=100)
            for t in run.recipe.frame_counts
        }

    patch.setattr(Run, "validate", validate)


def test_a_run_writes_checkpoints_metrics_and_events(recipe: Recipe, tmp_path: Path) -> None:
    result = train(recipe, tmp_path)
    assert result.finished and result.steps == 6
    assert [line["step"] for line in steps_of(tmp_path)] == list(range(6))
    for line in steps_of(tmp_path):
        # Each term, by frame count, and their sum as the objective states it.
        assert set(line["distillation"]) == {"2"}
        total = line["cross_entropy"] + line["distillation"]["2"]
        assert line["loss"] == pytest.approx(total, rel=1e-6)
    assert [line["epoch"] for line in metrics(tmp_path) if "validation" in line] == [0, 1]
    assert list((tmp_path / "tensorboard").iterdir())
    best = load_checkpoint(tmp_path / BEST)
    assert best.training is None and best.card.classes == ("dark", "bright")
    assert best.card.accuracy[4].clips == 12
    assert load_checkpoint(tmp_path / LAST).training is not None


def test_the_best_checkpoint_has_the_highest_mean_over_frame_counts(
    recipe: Recipe, tmp_path: Path
) -> None:
    result = train(recipe.replace(epochs=3), tmp_path)
    means = [
        sum(value["top1"] for value in line["validation"].values()) / 2
        for line in metrics(tmp_path)
        if "validation" in line
    ]
    kept = load_checkpoint(tmp_path / BEST).card.accuracy.values()
    assert sum(accuracy.top1 for accuracy in kept) / 2 == max(means) == result.best_mean_top1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["recipe", "everything"])
def test_a_run_killed_in_the_middle_resumes_to_the_same_losses(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    recipe: Recipe = request.getfixturevalue(kind)
    recipe = recipe.replace(epochs=4, optimizer="adamw", ema_decay=0.9)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    # Each in a process of its own, as in use: other threads than one may sum in another order.
    finish(start(recipe, whole))
    process = start(recipe, broken)
    wait_for(lambda: steps_in(broken) >= 4 and (broken / LAST).is_file(), process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    stopped_at = load_checkpoint(broken / LAST).training
    assert stopped_at is not None and 0 < stopped_at["step"] < 12
    # What a dying process may leave: lines that its checkpoint does not cover, one cut short.
    with open(broken / METRICS, "a") as file:
        epoch = stopped_at["epoch"]
        file.write(f'{{"step": 0, "epoch": {epoch}, "validation": {{}}}}\n{{"step": 11, "loss": 9')
    finish(start(recipe, broken, resume=True))
    # Bit for bit: the same data, order, dropout and statistics.
    assert metrics(broken) == metrics(whole)
    one, other = (load_checkpoint(folder / LAST).network.state_dict() for folder in (whole, broken))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("send", "number", "workers"),
    [
        (os.kill, signal.SIGTERM, 0),
        (os.kill, signal.SIGINT, 0),
        (os.killpg, signal.SIGINT, 1),  # Ctrl-C in a terminal reaches the loaders too
    ],
)
def test_a_signal_saves_and_ends_the_run(
    send: Callable[[int, int], None],
    number: signal.Signals,
    workers: int,
    recipe: Recipe,
    tmp_path: Path,
) -> None:
    process = start(recipe.replace(epochs=200), tmp_path, workers=workers)
    wait_for(lambda: steps_in(tmp_path) >= 1, process)
    send(process.pid, number)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 130, messages
    assert "the same command with --resume continues" in messages
    training = load_checkpoint(tmp_path / LAST).training
    assert training is not None and training["step"] == steps_in(tmp_path)


def test_a_run_stopped_by_its_last_step_still_validates_when_resumed(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe.replace(epochs=1)
    stopped_after(2, recipe, tmp_path, monkeypatch)
    assert not (tmp_path / BEST).exists()
    result = train(recipe, tmp_path, resume=True)
    assert result.finished and result.accuracy[4].clips == 12
    assert (tmp_path / BEST).is_file()


def stopped_after(step: int, recipe: Recipe, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Train until a signal comes with a step."""
    real = RunLog.step

    def logged(self: RunLog, number: int, epoch: int, values: dict[str, Any]) -> None:
        real(self, number, epoch, values)
        if number == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with patch.context() as patched:
        patched.setattr(RunLog, "step", logged)
        assert not train(recipe, folder).finished


@pytest.mark.slow
@pytest.mark.parametrize("videos", [4, 8, 20], ids="{} videos".format)
@pytest.mark.parametrize("stop", [1, 2, 4], ids="stopped after step {}".format)
def test_a_run_resumed_with_another_list_goes_on_with_whole_epochs_of_it(
    recipe: Recipe,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    videos: int,
    stop: int,
) -> None:
    recipe = recipe.replace(
        epochs=3, schedule="cosine", log_every=1
    )  # of 12 videos, in 3 steps each
    lines = [f"{data}/{i % 12}.mp4 {i % 2}\n" for i in range(videos)]
    (tmp_path / "other.txt").write_text("".join(lines))
    other = recipe.replace(train_list=str(tmp_path / "other.txt"))
    steps, epoch, done = videos // 4, stop // 3, stop % 3 + 1

    stopped_after(stop, recipe, tmp_path / "run", monkeypatch)
    result = train(other, tmp_path / "run", resume=True)

    assert result.finished and f"an epoch has {counted(steps, 'step')} instead" in (caplog.text)
    logged = steps_of(tmp_path / "run")
    assert [line["step"] for line in logged] == list(range(result.steps))
    per_epoch = [sum(line["epoch"] == i for line in logged) for i in range(3)]
    # What was done of the epoch stays done; those to come are whole, those before as they were.
    left = steps - round(done * steps / 3)
    assert per_epoch == [3] * epoch + [done + left] + [steps] * (2 - epoch)
    train(other, tmp_path / "at once")
    to_come = steps * (2 - epoch) + left
    expected = rates(tmp_path / "at once")[-to_come:]
    assert rates(tmp_path / "run")[-to_come:] == pytest.approx(expected)
    # And it can be stopped and resumed again as any other.
    assert train(other.replace(epochs=4), tmp_path / "run", resume=True).steps == (
        result.steps + steps
    )


@pytest.mark.parametrize(("epoch", "step"), [(1, 4), (2, 6), (2, 7)])
def test_a_checkpoint_of_release_0_1_says_no_steps_of_its_epoch(
    recipe: Recipe, tmp_path: Path, epoch: int, step: int
) -> None:
    train(recipe, tmp_path)
    content = torch.load(tmp_path / LAST, weights_only=True)
    for name in ("epoch_steps", "epoch_step"):
        del content["training"][name]
    content["training"] |= {"epoch": epoch, "step": step}
    torch.save(content, tmp_path / LAST)

    result = train(recipe.replace(epochs=3), tmp_path, resume=True)

    assert result.finished and result.steps == 9


@pytest.mark.parametrize("names", ["bright\ndark", "dark\nlight", "dark\nbright\nnone"])
def test_a_run_is_not_resumed_with_other_class_names(
    recipe: Recipe, tmp_path: Path, names: str
) -> None:
    train(recipe, tmp_path / "run")
    before = (tmp_path / "run" / LAST).read_bytes()
    (tmp_path / "classes.txt").write_text(names)
    other = recipe.replace(classes=str(tmp_path / "classes.txt"), epochs=3)

    with pytest.raises(CheckpointError, match="class"):
        train(other, tmp_path / "run", resume=True)

    assert (tmp_path / "run" / LAST).read_bytes() == before


def test_a_run_is_not_overwritten_by_forgetting_to_resume(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe, tmp_path)
    before = (tmp_path / LAST).read_bytes()
    with pytest.raises(RecipeError, match="holds a run already"):
        train(recipe, tmp_path)
    assert (tmp_path / LAST).read_bytes() == before and len(metrics(tmp_path)) == 8


def test_a_run_of_an_older_release_continues_without_a_field_that_is_no_more(
    recipe: Recipe, tmp_path: Path
) -> None:
    train(recipe.replace(epochs=1), tmp_path)
    content = torch.load(tmp_path / LAST, weights_only=True)
    content["training"]["recipe"]["compile"] = True
    torch.save(content, tmp_path / LAST)

    assert train(recipe, tmp_path, resume=True).finished


def test_two_processes_do_not_train_in_one_folder(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe.replace(epochs=1), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    with (
        FileLock(tmp_path / ".lock"),  # as the other process holds it
        pytest.raises(RecipeError, match="another process is training in"),
    ):
        train(recipe.replace(epochs=1), tmp_path, resume=True)

    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert after == before
    assert train(recipe.replace(epochs=1), tmp_path, resume=True).finished


def test_one_unreadable_video_in_a_small_last_batch_of_validation_is_borne(
    recipe: Recipe, data: Path, tmp_path: Path
) -> None:
    broken = list_with_broken(tmp_path, data, 24, 1)
    result = train(recipe.replace(val_list=broken, epochs=1), tmp_path / "run")
    assert result.accuracy[4].clips == 24
    (reason,) = result.broken_videos
    assert f"{tmp_path}/broken0.mp4" in reason


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("kind", ["recipe", "everything"])
def test_a_gpu_trains_in_half_precision(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, precision: str
) -> None:
    recipe: Recipe = request.getfixturevalue(kind)
    result = train(recipe.replace(precision=precision), tmp_path, device="cuda")
    assert result.finished


def test_a_finished_run_resumes_to_nothing(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe, tmp_path)
    before = metrics(tmp_path)
    result = train(recipe, tmp_path, resume=True)
    assert result.finished and result.steps == 6 and result.accuracy[4].clips == 12
    assert metrics(tmp_path) == before


@pytest.mark.parametrize("kind", ["recipe", "everything"])
def test_workers_do_not_change_the_losses(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    recipe: Recipe = request.getfixturevalue(kind)
    train(recipe, tmp_path / "none")
    train(recipe, tmp_path / "one", workers=1)
    assert metrics(tmp_path / "none") == metrics(tmp_path / "one")


def test_a_run_with_everything_on_resumes_to_the_same_losses(
    everything: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(everything, tmp_path / "whole")
    stopped_after(3, everything, tmp_path / "broken", monkeypatch)
    train(everything, tmp_path / "broken", resume=True)
    for one, other in zip(*map(steps_of, (tmp_path / "whole", tmp_path / "broken")), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)  # threads may change


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_frozen_stages_keep_their_weights_and_adapt_their_norms(
    everything: Recipe, tmp_path: Path, optimizer: str
) -> None:
    recipe = everything.replace(optimizer=optimizer, ema_decay=0.9, weight_decay=0.1, epochs=1)
    assert recipe.start_from is not None
    train(recipe, tmp_path / "run")

    before = load_checkpoint(recipe.start_from).network.state_dict()
    for file in (BEST, LAST):
        after = load_checkpoint(tmp_path / "run" / file).network.state_dict()
        for name, value in before.items():
            if not value.is_floating_point():
                continue
            frozen = name.startswith(("body.conv1.", "body.layer1."))
            shared = ".norms." not in name and ".phi." not in name
            assert torch.equal(value, after[name]) == (frozen and shared), name
    held = load_checkpoint(tmp_path / "run" / LAST).training
    assert held is not None
    # The four convolutions of two blocks, and that of the stem, are not there.
    learning = sum(1 for _ in build("tsm_tiny", 2, (2, 4)).parameters()) - 5
    assert sum(len(group["params"]) for group in held["optimizer"]["param_groups"]) == learning


def test_patience_ends_a_run_that_does_not_rise(
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recipe = recipe.replace(epochs=9, patience=2)
    validating(monkeypatch, 0.6, 0.8, 0.7, 0.8, 0.9, 0.1, 0.1, 0.1)
    with caplog.at_level("INFO"):
        result = train(recipe, tmp_path)
    assert result.finished and result.steps == 4 * 3
    assert "has not risen in 2 validations" in caplog.text
    assert load_checkpoint(tmp_path / BEST).card.accuracy[4].top1 == 0.8
    again = train(recipe, tmp_path, resume=True)
    assert again.finished and again.steps == 4 * 3
    # More patience is more training of the same run.
    assert train(recipe.replace(patience=3), tmp_path, resume=True).steps == 8 * 3


def test_a_resumed_run_goes_on_counting_to_its_patience(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe.replace(epochs=9, patience=3, log_every=1)
    validating(monkeypatch, 0.8, 0.7, 0.7, 0.7, 0.9)
    stopped_after(7, recipe, tmp_path, monkeypatch)  # in the third epoch
    result = train(recipe, tmp_path, resume=True)
    assert result.finished and result.steps == 4 * 3


@pytest.mark.parametrize(
    ("means", "warns"),
    [
        ((0.5, 0.5, 0.5), 1),
        ((0.5, 0.9, 0.9), 0),  # the first half is not judged
        ((0.9, 0.66, 0.54), 1),  # a standard error of 100 clips is 5 %
        ((0.9, 0.66, 0.56), 0),
    ],
)
def test_validation_at_chance_is_said_once(
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    means: tuple[float, ...],
    warns: int,
) -> None:
    validating(monkeypatch, *(mean for mean in means for _ in range(2)))
    train(recipe.replace(epochs=6), tmp_path)
    said = [record for record in caplog.records if "chance" in record.getMessage()]
    assert len(said) == warns


def test_one_class_alone_is_no_chance(
    recipe: Recipe, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "list.txt").write_text("".join(f"{data}/{i}.mp4 0\n" for i in (0, 2)))
    train(recipe.replace(epochs=1, val_list=str(tmp_path / "list.txt")), tmp_path / "run")
    assert "chance" not in caplog.text


def test_lines_of_progress_have_the_last_accuracy_of_each_frame_count_also_when_resumed(
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("ffn_edge.progress._EVERY_S", 0)
    validating(monkeypatch, 0.614, 0.7)
    caplog.set_level("INFO")
    stopped_after(4, recipe.replace(log_every=1), tmp_path, monkeypatch)

    def lines() -> list[str]:
        said = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return [line for line in said if "loss" in line]

    before = lines()
    assert all(":" not in line for line in before[:3])
    assert all("  2: 61%  4: 61%" in line for line in before[3:])
    assert train(recipe, tmp_path, resume=True).finished
    assert all("  2: 61%  4: 61%" in line for line in lines())


def test_clipping_bounds_what_the_optimiser_sees(recipe: Recipe, tmp_path: Path) -> None:
    recipe = recipe.replace(
        epochs=1, batch_size=12, momentum=0.0, weight_decay=0.0, learning_rate=1.0, dropout=0.0
    )

    def moved(clip: float | None) -> float:
        folder = tmp_path / str(clip)
        train(recipe.replace(clip_gradient=clip), folder)
        torch.manual_seed(recipe.seed)
        before = dict(build("tsm_tiny", 2, (2, 4), dropout=0.0).named_parameters())
        after = dict(load_checkpoint(folder / LAST).network.named_parameters())
        # The classifier moves at 5× and 10× the rate; the body at 1×: its step is its gradient.
        body = [name for name in before if not name.startswith("body.fc")]
        return float(
            sum((after[n] - before[n]).detach().double().square().sum() for n in body) ** 0.5
        )

    assert moved(None) > 0.1
    assert moved(0.01) <= 0.01 * (1 + 1e-4)  # float32 rounding of the weights


def test_an_average_of_the_weights_is_what_is_validated_and_kept(
    recipe: Recipe, tmp_path: Path
) -> None:
    train(recipe.replace(ema_decay=0.5, epochs=1), tmp_path)
    last = load_checkpoint(tmp_path / LAST)
    assert last.training is not None and last.training["average"] is not None
    name = "body.conv1.weight"
    kept = load_checkpoint(tmp_path / BEST).network.state_dict()[name]
    assert not torch.equal(kept, last.network.state_dict()[name])


def test_a_batch_may_come_in_parts(recipe: Recipe, tmp_path: Path) -> None:
    """The parts' gradients are averaged: as large as the whole batch's, not twice as large.

    They are not the same, since each part is normalised by its own statistics.
    """
    recipe = recipe.replace(epochs=1, batch_size=12, momentum=0.0, weight_decay=0.0, dropout=0.0)

    def moved(parts: int) -> float:
        folder = tmp_path / str(parts)
        result = train(recipe.replace(accumulate=parts), folder)
        assert result.steps == 1  # 12 videos in a step, whatever the parts
        torch.manual_seed(recipe.seed)
        before = build("tsm_tiny", 2, (2, 4)).body.fc.linear.weight.detach()
        after = load_checkpoint(folder / LAST).network.body.fc.linear.weight.detach()
        return float((after - before).norm())

    assert moved(2) == pytest.approx(moved(1), rel=0.3)


def test_half_precision_trains(recipe: Recipe, tmp_path: Path) -> None:
    result = train(recipe.replace(precision="bf16"), tmp_path)
    assert result.finished
    assert load_checkpoint(tmp_path / LAST).network.state_dict()["body.conv1.weight"].dtype is (
        torch.float32
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["recipe", "everything"])
def test_two_processes_share_the_work_and_one_writes(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    recipe: Recipe = request.getfixturevalue(kind)
    file = tmp_path / "my_recipe.py"
    file.write_text(f"from ffn_edge.train.recipe import Recipe\nrecipe = {recipe!r}\n")
    # Each process leaves its own weights behind when the run ends.
    file.write_text(
        file.read_text() + "import os, torch\nfrom ffn_edge.train import loop\n"
        "def result(run):\n"
        "    network = run.learner.network\n"
        f"    path = {str(tmp_path / 'run')!r} + '/weights' + os.environ['RANK'] + '.pt'\n"
        "    torch.save(dict(network.named_parameters()), path)\n"
        "    return original(run)\n"
        "original, loop.Run.result = loop.Run.result, result\n"
    )
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "ffn_edge", "train", str(file), "-o", str(tmp_path / "run")),
        *("--device", "cpu", "--workers", "0", "--json"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["finished"]  # printed once
    assert done.stderr.count("best.pt") == 1
    assert [line["step"] for line in steps_of(tmp_path / "run")] == list(range(6))
    # Both processes' clips were counted: each has half of the 12.
    assert load_checkpoint(tmp_path / "run" / BEST).card.accuracy[4].clips == 12
    # Their gradients were averaged. Both end with the same weights, else the averaging is missing:
    # each saw other videos.
    one, other = (
        torch.load(tmp_path / "run" / f"weights{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    assert one and all(torch.equal(one[name], other[name]) for name in one)


def test_another_recipe_cannot_continue_a_run(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe, tmp_path)
    with pytest.raises(CheckpointError, match=r"learning_rate was 0\.01, is 0\.02"):
        train(recipe.replace(learning_rate=0.02), tmp_path, resume=True)


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for one `last.pt` that `test_a_damaged_state_cannot_be_resumed` makes."""
    return tmp_path_factory.mktemp("damaged")


@pytest.mark.parametrize(
    "changes",
    [
        {"step": -1},
        {"epoch": 0.5},
        {"epoch_steps": 0},
        {"recipe": []},
        {"recipe": {}},
        {"recipe": {"epochs": "x"}},
        {"accuracy": {4: {"top1": float("nan"), "top5": 0.5, "clips": 12}}},
        {"optimizer": {}},
        {"optimizer": {"state": {}, "param_groups": []}},
        {"schedule": None},
        {"average": "none"},
    ],
)
def test_a_damaged_state_cannot_be_resumed(
    changes: dict[str, object], recipe: Recipe, last: Path
) -> None:
    if not (last / LAST).exists():
        train(recipe.replace(epochs=1), last)
        shutil.copy(last / LAST, last / "whole.pt")
    content = torch.load(last / "whole.pt", weights_only=True)
    torch.save({**content, "training": content["training"] | changes}, last / LAST)
    with pytest.raises(CheckpointError):
        train(recipe.replace(epochs=1), last, resume=True)


@pytest.mark.parametrize("schedule", ["step", "cosine", "one_cycle"])
def test_a_finished_run_trains_on_with_more_epochs_at_the_rates_of_the_longer_schedule(
    recipe: Recipe, tmp_path: Path, schedule: Any, caplog: pytest.LogCaptureFixture
) -> None:
    short = recipe.replace(epochs=1, schedule=schedule, step_epochs=(1,), warmup_epochs=0.0)
    long = short.replace(epochs=2)
    train(short, tmp_path / "run")
    result = train(long, tmp_path / "run", resume=True)
    assert result.finished and "2 epochs instead of 1" in caplog.text

    train(long, tmp_path / "at once")
    found, expected = rates(tmp_path / "run"), rates(tmp_path / "at once")
    half = len(expected) // 2
    assert len(found) == len(expected) and found[half:] == pytest.approx(expected[half:])

    with pytest.raises(CheckpointError, match="epochs was 2, is 1"):
        train(short, tmp_path / "run", resume=True)


def test_a_few_broken_videos_are_skipped_and_reported(
    recipe: Recipe, data: Path, tmp_path: Path
) -> None:
    broken = list_with_broken(tmp_path, data, 12, 1)
    recipe = recipe.replace(train_list=broken, max_broken_share=0.2, epochs=4)
    (reason,) = train(recipe, tmp_path / "run").broken_videos
    assert f"{tmp_path}/broken0.mp4" in reason


def test_many_broken_videos_stop_the_run(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    broken = list_with_broken(tmp_path, data, 12, 12)
    with pytest.raises(DataError, match="broken"):
        train(recipe.replace(train_list=broken), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "resume", "error", "words"),
    [
        ({}, True, CheckpointError, "no file"),
        ({"train_list": None}, False, RecipeError, "train_list"),
        ({"batch_size": 64}, False, RecipeError, "do not fill one batch"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    changes: dict[str, Any],
    resume: bool,
    error: type[Exception],
    words: str,
    recipe: Recipe,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=words):
        train(recipe.replace(**changes), tmp_path, resume=resume)


def test_a_diverged_run_says_so_before_it_saves(recipe: Recipe, tmp_path: Path) -> None:
    diverging = recipe.replace(learning_rate=1e30, epochs=5, checkpoint_minutes=0.0)
    with pytest.raises(RecipeError, match="the loss is") as caught:
        train(diverging, tmp_path)
    training = load_checkpoint(tmp_path / LAST).training
    assert training is not None and caught.value.message.endswith(f"at step {training['step']}")


@pytest.mark.parametrize("log_every", [1, 2, 10])
def test_how_often_a_run_logs_changes_nothing_that_it_logs(
    log_every: int, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(recipe, tmp_path / "usual")
    groups, log = [], Run.log
    monkeypatch.setattr(Run, "log", lambda run: groups.append(len(run._unlogged)) or log(run))
    train(recipe.replace(log_every=log_every), tmp_path / "other")

    assert metrics(tmp_path / "other") == metrics(tmp_path / "usual")
    # Of two epochs of three steps; what is saved has been logged.
    assert [steps for steps in groups if steps] == {1: [1] * 6, 2: [2, 1] * 2, 10: [3] * 2}[
        log_every
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("changes", [{}, {"optimizer": "adamw", "ema_decay": 0.9}])
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_step_never_waits_for_the_gpu(
    changes: dict[str, Any], recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch itself raises an error where the host would wait, but in what logs and saves."""
    step = Run.step

    def watched(self: Run, batch: Any) -> None:
        torch.cuda.set_sync_debug_mode("error" if self.state.step else "default")
        try:
            step(self, batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Run, "step", watched)
    chosen = recipe.replace(precision="bf16", clip_gradient=1.0, **changes)
    assert train(chosen, tmp_path, device="cuda").finished


def test_a_network_that_looks_both_ways_starts_a_causal_one(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe, tmp_path / "two-sided")
    first = str(tmp_path / "two-sided" / BEST)

    train(
        recipe.replace(causal=True, start_from=first, epochs=1, learning_rate=1e-9),
        tmp_path / "causal",
    )

    started, before = load_checkpoint(tmp_path / "causal" / LAST), load_checkpoint(first)
    assert started.network.causal
    assert not before.network.causal
    for name, tensor in started.network.named_parameters():
        torch.testing.assert_close(tensor, before.network.get_parameter(name), atol=1e-5, rtol=0)
