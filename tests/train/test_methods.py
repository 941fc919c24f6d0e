"""The methods that FFN is compared with: what each trains, and what answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from ffn_edge import network
from ffn_edge.commands.train import train as train_command
from ffn_edge.errors import CheckpointError, RecipeError
from ffn_edge.network.checkpoint import load_checkpoint
from ffn_edge.train.log import METRICS
from ffn_edge.train.loop import BEST, LAST
from ffn_edge.train.methods import ALL_METHODS, Answering, method_of, train_method
from ffn_edge.train.recipe import Recipe


@pytest.fixture
def quick(recipe: Recipe) -> Recipe:
    return recipe.replace(epochs=1)


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("ffn", {"ffn": (2, 4)}),
        ("naive", {"single-4": (4,)}),
        ("separate", {"single-2": (2,), "single-4": (4,)}),
        ("ensemble", {"single-2": (2,), "single-4": (4,)}),
        ("finetune", {"single-4": (4,), "finetune": (2,)}),
        ("without-wa", {"without-wa": (2, 4)}),
    ],
)
def test_a_method_trains_its_networks(
    name: str, trained: dict[str, tuple[int, ...]], recipe: Recipe
) -> None:
    method = method_of(name, recipe)
    assert {run.name: run.recipe.frame_counts for run in method.runs} == trained


def test_only_the_network_that_was_trained_further_answers(recipe: Recipe) -> None:
    assert method_of("finetune", recipe).answering == ("finetune",)
    assert method_of("separate", recipe).answering == ("single-2", "single-4")


def test_frozen_stages_stay_so_in_fine_tuning(recipe: Recipe) -> None:
    further = method_of("finetune", recipe.replace(weights="IMAGENET1K_V1", freeze=2)).runs[1]
    assert further.recipe.freeze == 2 and further.recipe.weights is None


def test_one_network_of_a_method_lies_in_the_folder_itself(quick: Recipe, tmp_path: Path) -> None:
    for name in ("naive", "mixed", "proportional"):
        results = train_method(method_of(name, quick), tmp_path / name)
        assert len(results) == 1
        assert load_checkpoint(tmp_path / name / BEST).network.frame_counts == (4,)
        # Its accuracy is known at every frame count, where the naive method knows one.
        accuracy = load_checkpoint(tmp_path / name / BEST).card.accuracy
        assert set(accuracy) == ({4} if name == "naive" else {2, 4})


def test_fine_tuning_starts_from_the_naive_network(quick: Recipe, tmp_path: Path) -> None:
    # At this rate nothing moves: what it ends with is what it started from.
    still = quick.replace(learning_rate=1e-12)
    train_method(method_of("finetune", still), tmp_path)
    start = load_checkpoint(tmp_path / "single-4" / BEST).network.state_dict()
    end = load_checkpoint(tmp_path / "finetune" / BEST).network.state_dict()
    name = "body.layer1.0.conv1.conv.weight"
    torch.testing.assert_close(end[name], start[name], rtol=0, atol=1e-9)
    name = "body.layer1.0.bn1.norms.{}.weight"
    torch.testing.assert_close(end[name.format(2)], start[name.format(4)], rtol=0, atol=1e-9)


def test_resuming_trains_what_is_missing_and_leaves_what_is_finished(
    quick: Recipe, tmp_path: Path
) -> None:
    first = train_method(method_of("separate", quick), tmp_path)
    before = (tmp_path / "single-2" / BEST).read_bytes()
    for file in (LAST, BEST, METRICS):
        (tmp_path / "single-4" / file).unlink()
    second = train_method(method_of("separate", quick), tmp_path, resume=True)
    assert (tmp_path / "single-2" / BEST).read_bytes() == before
    assert second["single-4"].steps == first["single-4"].steps == 3
    # The time of a finished run is that of its training, not of looking at it again.
    assert second["single-2"] == first["single-2"]


@pytest.mark.parametrize(
    ("part", "vectors"),
    [("sn", {"phi"}), ("wa", {"norms"}), ("td", {"norms", "phi"}), ("ws", {"norms", "phi"})],
)
def test_an_ablation_leaves_out_its_part(
    part: str, vectors: set[str], quick: Recipe, tmp_path: Path
) -> None:
    train_method(method_of("ffn", quick.replace(without=(part,))), tmp_path)
    model = load_checkpoint(tmp_path / BEST).network
    names = {piece for name in model.state_dict() for piece in name.split(".")}
    assert names & {"norms", "phi"} == vectors
    shared = sum(name.endswith("layer1.0.conv2.weight") for name in model.state_dict())
    assert shared == (2 if part == "ws" else 1)
    assert model.without == (part,) and model.frame_counts == (2, 4)


def test_without_distillation_every_frame_count_learns_the_labels(
    quick: Recipe, tmp_path: Path
) -> None:
    train_method(method_of("ffn", quick.replace(without=("td",))), tmp_path)
    line = json.loads((tmp_path / METRICS).read_text().splitlines()[0])
    assert line["distillation"]["2"] > 0  # measured, and not in the loss
    assert line["loss"] == pytest.approx(
        line["cross_entropy"] + line["extra_cross_entropy"]["2"], rel=1e-6
    )


def test_the_nearest_network_answers_or_all_of_them() -> None:
    torch.manual_seed(0)
    networks = {t: network.build("tsm_tiny", 3, (t,)).eval() for t in (2, 4)}
    clip = torch.randn(2, 3, 3, 32, 32)
    with torch.inference_mode():
        each = {t: net(clip) for t, net in networks.items()}
        assert torch.equal(Answering(networks)(clip), each[4])  # ties go to the larger
        assert torch.equal(Answering(networks)(clip[:, :2]), networks[2](clip[:, :2]))
        together = Answering(networks, ensemble=True)
        torch.testing.assert_close(together(clip), (each[2] + each[4]) / 2)
    assert together.macs(4, 32) == 2 * Answering(networks).macs(4, 32)
    assert together.num_parameters == 2 * sum(p.numel() for p in networks[2].parameters())


@pytest.mark.parametrize(
    ("name", "without", "words"),
    [
        ("seperate", (), "no method"),
        ("naive", ("sn",), "no sn"),
        ("without-wa", ("sn",), "no sn"),
        ("separate-each", (), "each frame count that is evaluated"),
    ],
)
def test_a_method_that_cannot_be_is_refused(
    name: str, without: tuple[str, ...], words: str, recipe: Recipe
) -> None:
    with pytest.raises(RecipeError, match=words):
        method_of(name, recipe.replace(without=without))


def test_a_method_of_several_frame_counts_needs_them(recipe: Recipe) -> None:
    for name in ALL_METHODS[1:]:
        with pytest.raises(RecipeError, match="several frame counts"):
            method_of(name, recipe.replace(frame_counts=(4,)))
    assert method_of("ffn", recipe.replace(frame_counts=(4,))).runs


def test_what_ffn_is_compared_with_has_no_alteration(recipe: Recipe) -> None:
    for name in ALL_METHODS:
        for run in method_of(name, recipe, (2, 3)).runs:
            ordinary = name != "ffn" and not name.startswith("without-")
            assert ("wa" in run.recipe.without) == (ordinary or name == "without-wa")


def test_there_must_be_a_run_to_resume_and_one_of_the_method(quick: Recipe, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run of ffn to resume"):
        train_method(method_of("ffn", quick), tmp_path / "typo", resume=True)
    assert not (tmp_path / "typo").exists()
    train_method(method_of("ffn", quick), tmp_path)
    with pytest.raises(RecipeError, match="holds a single run"):
        train_method(method_of("separate", quick), tmp_path)


def test_train_prints_the_result_of_each_run(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "recipe.py"
    file.write_text(f"from ffn_edge.train.recipe import Recipe\nrecipe = {recipe!r}\n")
    arguments = [str(file), "--workers", "0", "--epochs", "1", "--json"]
    result = CliRunner().invoke(
        train_command,
        [*arguments, "--method", "separate", "-o", str(tmp_path / "separate")],
        catch_exceptions=False,
    )
    assert set(json.loads(result.stdout)) == {"single-2", "single-4"}
    result = CliRunner().invoke(
        train_command,
        [*arguments, "--without", "sn, wa", "-o", str(tmp_path / "ablated")],
        catch_exceptions=False,
    )
    assert json.loads(result.stdout)["finished"]
    assert load_checkpoint(tmp_path / "ablated" / BEST).network.without == ("sn", "wa")
