"""Whatever reads a list finds out that it is of another kind before anything is computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ffn_edge.errors import DataError
from ffn_edge.network import FrameFlexibleNetwork, build
from ffn_edge.network.checkpoint import ModelCard, save_checkpoint
from ffn_edge.train.adapt import adapt
from ffn_edge.train.compare import compare
from ffn_edge.train.deviation_report import deviation_of_checkpoint
from ffn_edge.train.loop import train
from ffn_edge.train.recipe import Recipe
from ffn_edge.train.report import evaluate_checkpoint
from ffn_edge.train.unlabelled import Clips

Use = Callable[[Recipe, Path, str], object]


def _checkpoint(folder: Path) -> str:
    card = ModelCard(classes=("dark", "bright"), size=32, short_side=32)
    save_checkpoint(folder / "model.pt", build("tsm_tiny", 2, (2, 4)), card)
    return str(folder / "model.pt")


def _train_on(recipe: Recipe, folder: Path, wrong: str) -> object:
    return train(recipe.replace(train_list=wrong), folder / "run")


def _validate_on(recipe: Recipe, folder: Path, wrong: str) -> object:
    return train(recipe.replace(val_list=wrong), folder / "run")


def _evaluate(recipe: Recipe, folder: Path, wrong: str) -> object:
    return evaluate_checkpoint(_checkpoint(folder), list_file=wrong)


def _adapt_to(recipe: Recipe, folder: Path, wrong: str) -> object:
    return adapt(_checkpoint(folder), str(folder / "new.pt"), (3,), Clips(list_file=wrong))


def _adapt(recipe: Recipe, folder: Path, wrong: str) -> object:
    clips = Clips(list_file=str(recipe.train_list), val_list=wrong)
    return adapt(_checkpoint(folder), str(folder / "new.pt"), (3,), clips)


def _compare(recipe: Recipe, folder: Path, wrong: str) -> object:
    return compare(recipe, folder / "compared", ("ffn",), test_list=wrong)


def _deviation(recipe: Recipe, folder: Path, wrong: str) -> object:
    return deviation_of_checkpoint(_checkpoint(folder), list_file=wrong)


@pytest.mark.parametrize(
    "use", [_train_on, _validate_on, _evaluate, _adapt_to, _adapt, _compare, _deviation]
)
def test_a_list_of_another_kind_is_refused_before_a_network_is_asked(
    use: Use, recipe: Recipe, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    wrong = tmp_path / "wrong.txt"
    wrong.write_text("text.mp4 0\n" * 40)

    def asked(*_: object) -> None:
        raise AssertionError("a network was asked")

    monkeypatch.setattr(FrameFlexibleNetwork, "forward", asked)

    with pytest.raises(DataError, match=r"text\.mp4"):
        use(recipe, tmp_path, str(wrong))


def test_classes_without_a_training_video_are_said_before_the_first_step(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "classes.txt").write_text("dark\nbright\nnone\n")

    train(recipe.replace(classes=str(tmp_path / "classes.txt"), epochs=1), tmp_path / "run")

    said = capsys.readouterr().err
    assert "1 class of 3, such as 'none'" in said
    assert said.index("'none'") < said.index("epoch 1")
