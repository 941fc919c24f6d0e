"""`ffn-edge compare`: one table from many runs, and going on after an interruption."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ffn_edge.bundle.bundle import Accuracy
from ffn_edge.commands.compare import compare as compare_command
from ffn_edge.demo import clips as demo_clips
from ffn_edge.errors import DataError, FfnEdgeError, RecipeError, VideoError
from ffn_edge.network.checkpoint import load_checkpoint, save_checkpoint
from ffn_edge.train import compare as compare_module
from ffn_edge.train.compare import RESULTS, Score, compare, mean_top1
from ffn_edge.train.loop import BEST, LAST
from ffn_edge.train.recipe import Recipe


@pytest.fixture
def quick(recipe: Recipe) -> Recipe:
    return recipe.replace(epochs=1)


def score(method: str, seed: int, top1: float) -> Score:
    return Score(
        method=method,
        seed=seed,
        parameters=1,
        bytes=4,
        seconds=1.0,
        cpu_seconds=1.0,
        gmacs={4: 1.0},
        accuracy={4: Accuracy(top1=top1, top5=1.0, clips=100)},
    )


def run_command(recipe: Recipe, folder: Path, *options: str) -> Result:
    file = folder / "recipe.py"
    file.write_text(f"from ffn_edge.train.recipe import Recipe\nrecipe = {recipe!r}\n")
    arguments = [str(file), "-o", str(folder / "out"), "--workers", "0", *options]
    return CliRunner().invoke(compare_command, arguments, catch_exceptions=False)


@pytest.mark.slow
def test_runs_that_methods_share_are_trained_once(quick: Recipe, tmp_path: Path) -> None:
    scores = compare(quick, tmp_path, ["ffn", "naive", "separate", "ensemble"], seeds=(0, 1))

    assert scores is not None
    assert [s.method for s in scores[:4]] == ["ffn", "ffn", "naive", "naive"]
    assert [s.seed for s in scores[:4]] == [0, 1, 0, 1]
    folders = {path.parent.name for path in tmp_path.glob(f"seed-1/*/{BEST}")}
    assert folders == {"ffn", "single-2", "single-4"}
    by_name = {s.method: s for s in scores if s.seed == 0}
    assert by_name["separate"].parameters == 2 * by_name["naive"].parameters
    assert by_name["separate"].seconds > by_name["naive"].seconds
    assert by_name["ensemble"].gmacs[4] == pytest.approx(2 * by_name["naive"].gmacs[4])
    assert set(by_name["ffn"].accuracy) == {2, 4}
    written = json.loads((tmp_path / RESULTS).read_text())
    assert [row["method"] for row in written[::2]] == ["ffn", "naive", "separate", "ensemble"]


def test_seeds_give_other_networks(quick: Recipe, tmp_path: Path) -> None:
    compare(quick, tmp_path, ["naive"], seeds=(0, 1))

    first, second = (
        load_checkpoint(tmp_path / f"seed-{s}" / "single-4" / BEST).network.state_dict()
        for s in (0, 1)
    )
    assert not first["body.conv1.weight"].equal(second["body.conv1.weight"])


def test_the_same_command_again_trains_and_evaluates_nothing(
    quick: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compare(quick, tmp_path, ["naive"])
    assert first is not None

    def evaluated(*_: object, **__: object) -> None:
        raise AssertionError("evaluated again")

    def trained(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(compare_module, "train_run", trained)
    monkeypatch.setattr(compare_module, "evaluate_network", evaluated)
    again = compare(quick, tmp_path, ["naive"])
    assert again is not None and again[0].accuracy == first[0].accuracy
    # Another list is another question, and so are other videos.
    other = Path(str(quick.val_list)).with_name("other.txt")
    other.write_text(Path(str(quick.val_list)).read_text().replace(" 0", " 1"))
    for test_list in (other, other_videos(quick, tmp_path)):
        with pytest.raises(AssertionError, match="evaluated again"):
            compare(quick, tmp_path, ["naive"], test_list=str(test_list))


def other_videos(recipe: Recipe, folder: Path) -> Path:
    """Return a list that says what the recipe's says, of other videos in another folder."""
    source = Path(str(recipe.train_list)).parent
    moved = Path(shutil.copytree(source, folder / "other", dirs_exist_ok=True))
    videos = sorted(moved.rglob("*.mp4"))
    shutil.copy(videos[0], videos[-1])
    return moved / Path(str(recipe.train_list)).name


def test_videos_that_were_moved_are_the_same(quick: Recipe, tmp_path: Path) -> None:
    compare(quick, tmp_path / "out", ["naive"])
    moved = shutil.copytree(Path(str(quick.train_list)).parent, tmp_path / "moved")
    lists = {
        name: str(moved / Path(str(getattr(quick, name))).name)
        for name in ("train_list", "val_list", "classes")
    }
    before = (tmp_path / "out/seed-0/single-4" / BEST).stat().st_mtime_ns

    assert compare(quick.replace(**lists), tmp_path / "out", ["naive"]) is not None
    assert (tmp_path / "out/seed-0/single-4" / BEST).stat().st_mtime_ns == before


def test_an_interrupted_comparison_goes_on_where_it_was(
    quick: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    train_run = compare_module.train_run

    def until_the_second(run, *arguments, **options):  # type: ignore[no-untyped-def]
        trained.append(run.name)
        result = train_run(run, *arguments, **options)
        if len(trained) < 2:
            return result
        return dataclasses.replace(result, finished=False)

    monkeypatch.setattr(compare_module, "train_run", until_the_second)
    assert compare(quick, tmp_path, ["separate"]) is None
    assert not (tmp_path / RESULTS).exists()
    kept = (tmp_path / "seed-0" / "single-2" / BEST).read_bytes()
    monkeypatch.undo()
    assert compare(quick, tmp_path, ["separate"]) is not None
    assert (tmp_path / "seed-0" / "single-2" / BEST).read_bytes() == kept


def test_a_folder_of_another_recipe_data_or_start_is_refused(quick: Recipe, tmp_path: Path) -> None:
    compare(quick, tmp_path, ["naive"])
    other = Path(str(quick.train_list)).with_name("other.txt")
    other.write_text(Path(str(quick.train_list)).read_text() + "\n")

    for changed, what in (
        (quick.replace(learning_rate=0.02), f"learning_rate: {quick.learning_rate}, not 0.02"),
        (quick.replace(train_list=str(other)), "train_videos"),
        (quick.replace(train_list=str(other_videos(quick, tmp_path))), "train_videos"),
        (quick.replace(weights="elsewhere.pth"), "weights"),
        (quick.replace(start_from=str(other)), "start_from"),
        (quick.replace(validate_every=2), f"validate_every: {quick.validate_every}, not 2"),
    ):
        with pytest.raises(RecipeError, match=f"single-4 holds a run with another {what}"):
            compare(changed, tmp_path, ["naive"])


def test_a_file_that_is_gone_is_named_and_the_run_stays(quick: Recipe, tmp_path: Path) -> None:
    compare(quick, tmp_path, ["naive"])

    for changed in (
        quick.replace(train_list=str(tmp_path / "gone.txt")),
        quick.replace(start_from=str(tmp_path / "gone.pt")),
    ):
        with pytest.raises(FfnEdgeError, match=r"cannot.* read.*gone|gone.* cannot be read"):
            compare(changed, tmp_path, ["naive"])


def test_a_finished_run_stays_without_what_it_would_resume_from(
    quick: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(quick, tmp_path, ["naive"])
    (tmp_path / "seed-0" / "single-4" / LAST).unlink()
    monkeypatch.delattr(compare_module, "train_run")

    assert compare(quick, tmp_path, ["naive"]) is not None


def test_a_run_is_refused_once_the_one_it_started_from_is_another(
    quick: Recipe, tmp_path: Path
) -> None:
    compare(quick, tmp_path, ["finetune"])
    shutil.rmtree(tmp_path / "seed-0" / "single-4")
    (tmp_path / "seed-0" / "finetune.json").unlink()
    compare(quick, tmp_path, ["naive"])
    best = tmp_path / "seed-0" / "single-4" / BEST
    loaded = load_checkpoint(best)
    save_checkpoint(best, loaded.network, dataclasses.replace(loaded.card, dataset="jester"))
    with pytest.raises(RecipeError, match="finetune holds a run with another start_from"):
        compare(quick, tmp_path, ["finetune"])


def test_a_run_that_saved_nothing_binds_to_nothing(quick: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="do not fill one batch"):
        compare(quick.replace(batch_size=64), tmp_path, ["naive"])

    assert compare(quick, tmp_path, ["naive"]) is not None


SLOWFAST = {"architecture": "slowfast_resnet50"}


@pytest.mark.parametrize(
    ("changes", "methods", "evaluated", "words"),
    [
        ({}, ["ffn", "fnn"], (2, 10), "there is no method 'fnn'"),
        (SLOWFAST | {"frame_counts": (16, 32)}, ["ffn"], (2, 10), "got 2"),
        (SLOWFAST | {"frame_counts": (6, 10)}, ["ffn"], (8, 16), "got 6"),
        ({"without": ("sn",)}, ["ffn"], (2, 10), "no common ground"),
        ({"sampling": "mixed"}, ["ffn"], (2, 10), "no common ground"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_rendered_or_trained(
    changes: dict[str, Any],
    methods: list[str],
    evaluated: tuple[int, ...],
    words: str,
    quick: Recipe,
    tmp_path: Path,
) -> None:
    demo = quick.replace(dataset="demo", train_list=None, val_list=None, classes=None, **changes)
    options = ["--methods", ",".join(methods), "--test-frames", ",".join(map(str, evaluated))]

    with pytest.raises(FfnEdgeError, match=words):
        run_command(demo, tmp_path, *options)
    assert not (tmp_path / "out").exists()


def test_separate_each_has_a_network_for_every_evaluated_frame_count(
    quick: Recipe, tmp_path: Path
) -> None:
    scores = compare(quick, tmp_path, ["separate-each"], frame_counts=(2, 3, 4))
    assert scores is not None and set(scores[0].accuracy) == {2, 3, 4}
    assert load_checkpoint(tmp_path / "seed-0/single-3" / BEST).network.frame_counts == (3,)


def test_the_demos_clips_are_rendered_where_no_list_is_given(
    quick: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render_clips = demo_clips.render_clips

    def small(folder: Path, **sizes: int) -> None:
        few = {"train": 24, "val": 12, "test": 12} | {
            name: min(size, 12) for name, size in sizes.items() if name != "seed"
        }
        render_clips(folder, seed=sizes.get("seed", 0), workers=1, **few)

    monkeypatch.setattr(demo_clips, "render_clips", small)
    demo = quick.replace(dataset="demo", train_list=None, val_list=None, classes=None)
    result = run_command(demo, tmp_path, "--methods", "naive", "--seeds", "0,1", "--json")
    scores = json.loads(result.stdout)
    assert [score["accuracy"]["4"]["clips"] for score in scores] == [12, 12]
    first, second = (tmp_path / f"out/clips/test-{seed}/test/00000.mp4" for seed in (0, 1))
    assert first.read_bytes() != second.read_bytes()


def test_nothing_to_evaluate_on_is_an_error(quick: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="what to evaluate on"):
        compare(quick.replace(val_list=None), tmp_path, ["naive"])
    with pytest.raises(DataError, match=r"nowhere.* cannot be read"):
        compare(quick, tmp_path, ["naive"], test_list=str(tmp_path / "nowhere.txt"))
    assert not list(tmp_path.iterdir())  # before anything was trained


def test_a_field_that_an_older_release_did_not_know_had_its_default(
    quick: Recipe, tmp_path: Path
) -> None:
    compare(quick, tmp_path, ["naive"])
    path = tmp_path / "seed-0" / "single-4" / "run.json"
    older = json.loads(path.read_text())
    del older["asked"]["low_share"]
    path.write_text(json.dumps(older))

    assert compare(quick, tmp_path, ["naive"]) is not None
    with pytest.raises(RecipeError, match=r"another low_share: 0.5, not 0.25"):
        compare(quick.replace(low_share=0.25), tmp_path, ["naive"])


def test_a_mean_is_over_seeds_and_with_one_seed_over_clips() -> None:
    mean = mean_top1([score("a", 0, 0.8), score("a", 1, 0.9), score("b", 0, 0.1)], "a", 4)
    assert mean.value == pytest.approx(0.85)
    assert mean.error == pytest.approx(0.05)  # the deviation of two values, over √2
    alone = mean_top1([score("a", 0, 0.8)], "a", 4)
    assert (alone.value, alone.error) == (0.8, pytest.approx(0.04))  # √(0.8 · 0.2 / 100)


def test_compare_prints_a_table_json_and_draws(recipe: Recipe, tmp_path: Path) -> None:
    options = ["--methods", "naive,without-wa", "--epochs", "1", "--test-frames", "2-4"]
    result = run_command(recipe, tmp_path, *options)
    assert result.exit_code == 0
    for word in ("naive", "without-wa", "±", "GMACs"):
        assert word in result.output
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    result = run_command(recipe, tmp_path, *options, "--json")
    assert [row["method"] for row in json.loads(result.stdout)] == ["naive", "without-wa"]
    assert "evaluated on the validation list" in result.stderr
    for seeds, message in (("a", "not a list such as 0,1,2"), ("-1", "seeds are at least 0")):
        result = run_command(recipe, tmp_path, *options, "--seeds", seeds)
        assert result.exit_code == 2 and message in result.output


def test_the_same_seed_twice_is_one_training(quick: Recipe, tmp_path: Path) -> None:
    scores = compare(quick, tmp_path, ["naive"], seeds=(2, 0, 2))

    assert scores is not None and [score.seed for score in scores] == [2, 0]


def test_a_frame_folder_that_cannot_be_read_is_one_that_training_leaves_out(
    quick: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"image")
    (tmp_path / "list.txt").write_text("one 1 0\ntwo 1 0\n")
    unlabelled = quick.replace(classes=None)
    known = compare_module._checked_videos(unlabelled, str(tmp_path / "list.txt"))

    def failing(folder: Path) -> list[Path]:
        if folder.name == "two":
            raise VideoError(f"the folder {folder} cannot be read")
        return [folder / "1.jpg"]

    monkeypatch.setattr(compare_module, "images_in_folder", failing)

    assert compare_module._checked_videos(unlabelled, str(tmp_path / "list.txt")) != known
