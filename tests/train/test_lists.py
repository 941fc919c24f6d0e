"""Whatever reads a list finds out that it is of another kind before anything is computed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from ffn_edge.errors import DataError
from ffn_edge.network import FrameFlexibleNetwork, build
from ffn_edge.network.checkpoint import ModelCard, save_checkpoint
from ffn_edge.train.adapt import adapt
from ffn_edge.train.batches import Clips
from ffn_edge.train.compare import compare
from ffn_edge.train.deviation import deviation_of_checkpoint
from ffn_edge.train.evaluate import evaluate_checkpoint
from ffn_edge.train.loop import train
from ffn_edge.train.recipe import Recipe

Use = Callable[[Recipe, Path, str], object]


def _checkpoint(folder: Path) -> str:
    card = ModelCard(classes=("dark", "bright"), size=32, short_side=32)
    save_checkpoint(folder / "model.pt", build("tsm_tiny", 2, (2, 4)), card)
    return str(folder / "model.pt")


def _adapt(clips: Clips, folder: Path) -> object:
    return adapt(_checkpoint(folder), str(folder / "new.pt"), (3,), clips)


USES: dict[str, Use] = {
    "train on": lambda recipe, to, wrong: train(recipe.replace(train_list=wrong), to / "run"),
    "validate on": lambda recipe, to, wrong: train(recipe.replace(val_list=wrong), to / "run"),
    "evaluate on": lambda _, to, wrong: evaluate_checkpoint(_checkpoint(to), list_file=wrong),
    "adapt to": lambda _, to, wrong: _adapt(Clips(list_file=wrong), to),
    "adapt": lambda recipe, to, wrong: _adapt(
        Clips(list_file=str(recipe.train_list), val_list=wrong), to
    ),
    "compare": lambda recipe, to, wrong: compare(recipe, to / "out", ("ffn",), test_list=wrong),
    "deviate": lambda _, to, wrong: deviation_of_checkpoint(_checkpoint(to), list_file=wrong),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_a_list_of_another_kind_is_refused_before_a_network_is_asked(
    use: Use, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    wrong = tmp_path / "wrong.txt"
    wrong.write_text("text.mp4 0\n" * 40)
    monkeypatch.delattr(FrameFlexibleNetwork, "forward")

    with pytest.raises(DataError, match=r"text\.mp4"):
        use(recipe, tmp_path, str(wrong))


def test_classes_without_a_training_video_are_said_before_the_first_step(
    recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "classes.txt").write_text("dark\nbright\nnone\n")

    train(recipe.replace(classes=str(tmp_path / "classes.txt"), epochs=1), tmp_path / "run")

    absent, validated = caplog.messages
    assert "1 class of 3, such as 'none'" in absent and validated.startswith("epoch 1: top-1")
