"""A recipe that fits the videos, the machine and the time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ffn_edge.cli import cli
from ffn_edge.errors import CheckpointError, DataError, RecipeError
from ffn_edge.media.video_writer import VideoWriter
from ffn_edge.network.checkpoint import load_checkpoint
from ffn_edge.train import fitting
from ffn_edge.train.data_folder import DataFacts, DataFolder, read_data_folder
from ffn_edge.train.fitting import Fitted, Pace, candidates, with_time, write_recipe
from ffn_edge.train.loop import Run
from ffn_edge.train.recipe import Recipe, load_recipe
from ffn_edge.train.scan.scan import scan

FACTS = DataFacts(
    dataset="custom",
    clips={"train": {"wave": 300, "clap": 200}, "val": {"wave": 60, "clap": 40}},
    seconds=(1.0, 2.5, 4.0),
    fps=25.0,
    short_side=480,
    window_s=2.5,
    frame_counts=(4, 8, 16),
    mirror=(),
)
Fit = Callable[..., Fitted]


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fit:
    """Fits to facts, on a CPU on which a clip takes as long as said, by architecture and size."""

    def fitted(
        facts: DataFacts = FACTS,
        *,
        time_s: float = 1200.0,
        weights: bool = False,
        clip_s: Callable[[Recipe], float] = lambda recipe: 0.01,
        clip_bytes: float = 0.0,
    ) -> Fitted:
        def cost(recipe: Recipe, *_: object) -> Any:
            return fitting._Cost(
                clip_s=clip_s(recipe), clip_bytes=max(1.0, clip_bytes), device_bytes=8e9
            )

        monkeypatch.setattr(fitting, "_cost", cost)
        monkeypatch.setattr(fitting, "_has_weights", lambda architecture: weights)
        data = DataFolder(path=tmp_path / "data", classes=("clap", "wave"), facts=facts)
        return next(candidates(data, time_s=time_s, kind="cpu", device="cpu"))

    return fitted


def changed(**fields: Any) -> DataFacts:
    return dataclasses.replace(FACTS, **fields)


def test_the_best_network_that_the_time_allows_is_chosen(fit: Fit) -> None:
    def chosen(**asked: Any) -> tuple[str, int]:
        recipe = fit(**asked).recipe
        return recipe.architecture, recipe.size

    assert chosen(weights=True) == ("tsm_mobilenet_v3_small", 160)
    assert chosen() == ("tsm_tiny", 112)
    assert chosen(weights=True, time_s=20.0) == ("tsm_tiny", 64)
    assert chosen(clip_s=lambda recipe: recipe.size / 1000) == ("tsm_tiny", 64)
    assert chosen(clip_s=lambda recipe: 1e6) == ("tsm_tiny", 64)


def test_a_large_network_learns_from_nothing_only_with_very_many_clips(fit: Fit) -> None:
    many = changed(clips={"train": {"wave": 60_000, "clap": 60_000}, "val": {"wave": 9}})
    fitted = fit(many, time_s=1e6)
    assert fitted.recipe.architecture == "tsm_mobilenet_v3_small"
    assert fitted.recipe.weights is None and "--weights" in fitted.reasons["weights"]


@pytest.mark.parametrize(
    ("clips", "clip_bytes", "batch"),
    [(500, 0.0, 32), (200, 0.0, 16), (20, 0.0, 4), (2, 0.0, 2), (500, 0.5e9, 8), (500, 8e9, 4)],
)
def test_a_batch_fits_the_clips_and_the_memory(
    clips: int, clip_bytes: float, batch: int, fit: Fit
) -> None:
    facts = changed(clips={"train": {"wave": clips // 2, "clap": clips // 2}, "val": {"wave": 9}})
    recipe = fit(facts, clip_bytes=clip_bytes).recipe
    assert recipe.batch_size == batch
    assert recipe.learning_rate == pytest.approx(3e-3 * math.sqrt(batch / 32), rel=0.05)


def test_facts_of_the_videos_go_into_the_recipe(fit: Fit) -> None:
    recipe = fit(changed(frame_counts=(2, 4), mirror=(("clap", "wave"),))).recipe
    assert (recipe.window_s, recipe.frame_counts) == (2.5, (2, 4))
    assert recipe.mirror == (("clap", "wave"),) and recipe.balanced
    even = changed(clips={"train": {"wave": 100, "clap": 90}, "val": {"wave": 9}}, mirror=None)
    assert not fit(even).recipe.balanced and fit(even).recipe.mirror is None
    known = fit(changed(dataset="kinetics400"))
    assert known.recipe.dataset == "kinetics400"
    # That is among its facts.
    assert known.recipe.mirror is None and "mirror" not in known.reasons


def test_a_recipe_that_was_written_reads_as_it_was(fit: Fit, tmp_path: Path) -> None:
    fitted = fit()
    recipe = fitted.recipe.replace(weights=str(tmp_path / "start.pth"))
    (tmp_path / "a disk/run's").mkdir(parents=True)
    (tmp_path / "run").symlink_to("a disk/run's")
    (tmp_path / "start.pth").touch()
    write_recipe(tmp_path / "run/recipe.py", recipe, fitted.reasons, title="Fitted.")
    read = load_recipe(str(tmp_path / "run/recipe.py"))
    for name in ("train_list", "val_list", "classes", "weights"):
        assert Path(getattr(read, name)).resolve() == Path(getattr(recipe, name))
        read = read.replace(**{name: getattr(recipe, name)})
    assert read == recipe
    text = (tmp_path / "run/recipe.py").read_text()
    assert all(reason.split()[0] in text for reason in fitted.reasons.values())


def test_what_is_asked_for_is_not_fitted(
    fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit()  # sets what a clip costs
    monkeypatch.setattr(fitting, "pace_of", None)
    data = DataFolder(path=tmp_path, classes=("clap", "wave"), facts=FACTS)
    usual = Recipe(architecture="tsm_tiny", dataset="custom").epochs

    def asked(recipe: Recipe) -> Recipe:
        return recipe.replace(epochs=usual)

    recipe = fitting.fit_to_data(
        data, tmp_path / "run", asked, time_s=None, device="cpu", workers=0
    )
    assert recipe.epochs == usual


def test_a_machine_without_memory_is_refused(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_: Recipe) -> float:
        monkeypatch.setattr(fitting, "_cost", lambda *_: None)
        return math.inf

    with pytest.raises(RecipeError, match="memory"):
        fit(clip_s=none_left)


# ------------------------------------------------------------------------------------ with videos


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A scanned folder of bright and dark videos."""
    rng = np.random.default_rng(0)
    for name, level in (("dark", 60), ("bright", 180)):
        (tmp_path / "videos" / name).mkdir(parents=True)
        for number in range(15):
            with VideoWriter(tmp_path / f"videos/{name}/{number}.mp4", 10, 32, 32) as writer:
                for frame in rng.integers(level - 50, level + 50, (20, 32, 32, 3), np.uint8):
                    writer.write(frame)
    scan(tmp_path / "videos", tmp_path / "data", workers=1)
    return tmp_path / "data"


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_two_commands_train_a_network_without_a_list_or_a_recipe(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_has_weights", lambda architecture: False)
    monkeypatch.setattr(fitting, "_TRIED_STEPS", 6)
    given = ("--device", "cpu", "--workers", "0", "--frames", "2,4", "--set", "size=32")

    command = ("train", "--data", data, "-o", tmp_path / "run", "--time", "4s", *given)
    run(*command)
    run(*command, "--resume")

    card = load_checkpoint(tmp_path / "run/best.pt").card
    assert card.classes == ("bright", "dark") and card.window_s == 2.0
    written = load_recipe(str(tmp_path / "run/recipe.py"))
    assert written.frame_counts == (2, 4) and written.size == 32
    text = (tmp_path / "run/recipe.py").read_text()
    assert text.count("# as asked for") == 2
    more = str(written.epochs + 1)
    monkeypatch.chdir(data)
    run("train", "--data", ".", "-o", "../run", "--resume", "--epochs", more, *given[:4])
    run("train", tmp_path / "run/recipe.py", "-o", tmp_path / "again", "--epochs", "1", *given[:4])


def test_a_recipes_root_is_not_that_of_a_data_folder(data: Path, tmp_path: Path) -> None:
    given = ("-o", tmp_path / "run", "--device", "cpu", "--workers", "0", "--frames", "2,4")
    recipe = Recipe(architecture="tsm_tiny", dataset="custom", size=32, root="/elsewhere")
    write_recipe(tmp_path / "mine.py", recipe.replace(batch_size=4, epochs=1), {}, title="Mine.")
    run("train", tmp_path / "mine.py", "--data", data, *given)
    assert (tmp_path / "run/best.pt").exists()


def test_a_fitted_method_of_several_runs_is_resumed(data: Path, tmp_path: Path) -> None:
    given = ("--data", data, "-o", tmp_path / "run", "--device", "cpu", "--workers", "0")
    given = (*given, "--method", "separate")
    run("train", *given, "--frames", "2,4", "--set", "size=32", "--epochs", "1")
    run("train", *given, "--resume", "--epochs", "2")
    assert load_checkpoint(tmp_path / "run/single-4/last.pt").training["epoch"] == 2


def test_a_network_for_which_the_time_is_too_short_is_passed_over(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its arithmetic may be quick enough, and the decoding not."""
    monkeypatch.setattr(fitting, "_has_weights", lambda architecture: False)
    sizes = []

    def pace_of(recipe: Recipe, **_: object) -> Pace:
        sizes.append(recipe.size)
        return Pace(steps=6, step_s=recipe.size / 40, validation_s=1.0)

    monkeypatch.setattr(fitting, "pace_of", pace_of)
    fitted = fitting.fit_to_data(
        read_data_folder(data),
        tmp_path / "run",
        lambda recipe: recipe,
        time_s=900.0,
        device="cpu",
        workers=0,
    )
    assert sizes == [112, 64] and fitted.size == 64
    assert 88 < fitted.epochs <= 93 and fitted.validate_every == 4


@pytest.mark.parametrize(
    ("classes", "val", "message"), [(("wave",), 9, "one class"), (("clap", "wave"), 0, "val")]
)
def test_data_that_teaches_nothing_is_refused(
    classes: tuple[str, ...], val: int, message: str, tmp_path: Path
) -> None:
    facts = changed(clips={"train": {"wave": 9}, "val": {"wave": val}})
    with pytest.raises(DataError, match=message):
        fitting.fit_to_data(
            DataFolder(path=tmp_path / "data", classes=classes, facts=facts),
            tmp_path / "run",
            lambda recipe: recipe,
            time_s=9.0,
            device="cpu",
            workers=0,
        )


def test_epochs_follow_from_the_time(caplog: pytest.LogCaptureFixture) -> None:
    recipe = Recipe(architecture="tsm_tiny", dataset="custom", warmup_epochs=5.0)
    pace = Pace(steps=6, step_s=0.5, validation_s=0.4)
    found = with_time(recipe, pace, 910.0)
    assert (found.epochs, found.validate_every, found.warmup_epochs) == (300, 12, 5.0)
    assert with_time(recipe, pace, 910.0, most_steps=100).epochs == 17
    assert with_time(recipe, pace, 34.0).epochs == 10  # with as many validations
    assert with_time(recipe.replace(validate_every=20), pace, 910.0).validate_every == 20
    steps = recipe.replace(epochs=50, step_epochs=(20, 40))
    assert with_time(steps, pace, 910.0, most_steps=150).step_epochs == (10, 20)
    assert not caplog.records
    short = with_time(recipe, pace, 1.0)
    assert (short.epochs, short.validate_every, short.warmup_epochs) == (1, 1, 0.1)
    assert "less time" in caplog.text


def test_more_than_an_epoch_of_few_videos_is_measured(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(Run, "step", lambda run, batch: steps.append(len([*batch])))
    monkeypatch.setattr(Run, "batches", lambda run, epoch: iter([[epoch], [epoch]]))
    recipe = Recipe(
        architecture="tsm_tiny",
        dataset="custom",
        frame_counts=(2,),
        size=32,
        train_list=str(data / "train.csv"),
        batch_size=12,
    )
    fitting.pace_of(recipe, device="cpu", workers=0)
    assert len(steps) == fitting._TRIED_STEPS


@pytest.mark.parametrize("last", ["last.pt", "single-4/last.pt"])
def test_a_folder_with_a_run_is_refused_at_once(last: str, tmp_path: Path) -> None:
    (tmp_path / last).parent.mkdir(exist_ok=True)
    (tmp_path / last).touch()
    (tmp_path / "list.txt").touch()
    given = ("--train-list", str(tmp_path / "list.txt"), "--time", "9m")
    result = CliRunner().invoke(cli, ["train", "custom", "-o", str(tmp_path), *given])
    assert isinstance(result.exception, RecipeError)
    assert "holds a run" in result.exception.message


def test_a_run_that_is_not_there_is_not_resumed(data: Path, tmp_path: Path) -> None:
    given = ("train", "--data", str(data), "-o", str(tmp_path / "run"), "--resume")
    result = CliRunner().invoke(cli, given)
    assert isinstance(result.exception, CheckpointError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "RECIPE"),
        (("custom", "--time", "30m", "--epochs", "3"), "--time"),
        (("custom", "--time", "30m", "--set", "epochs=3"), "--time"),
        (("custom", "--time", "soon"), "no time"),
        (("custom", "--time", "0m"), "no time"),
        (("--data", "."), "no folder of"),
    ],
)
def test_what_does_not_go_together_is_refused(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    result = CliRunner().invoke(cli, ["train", "-o", str(tmp_path / "run"), *arguments])
    assert result.exit_code != 0
    assert message in (
        result.output if result.exception is None else str(result.exception) + result.output
    )
