"""A frame count added after training, or recalibrated: it alone changes, without any label."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn

from ffn_edge import network
from ffn_edge.bundle.bundle import Accuracy
from ffn_edge.commands.adapt import adapt as command
from ffn_edge.errors import CheckpointError, DataError, FfnEdgeError, RecipeError
from ffn_edge.frames import Indices
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.checkpoint import Checkpoint, ModelCard, load_checkpoint, save_checkpoint
from ffn_edge.train import adapt as adaptation
from ffn_edge.train.adapt import adapt, recalibrate
from ffn_edge.train.batches import Clips, videos_for
from ffn_edge.train.loading import to_model_input
from ffn_edge.train.objective import MultiFrequencyLoss

KNOWN = {t: Accuracy(top1=0.5, top5=1.0, clips=t) for t in (2, 8)}
CARD = ModelCard(classes=("dark", "bright"), size=32, short_side=32, accuracy=KNOWN)


@pytest.fixture(scope="module")
def trained(
    randomise: Callable[[FrameFlexibleNetwork], FrameFlexibleNetwork],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A checkpoint of a tsm_tiny for 2 and 8 frames."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("trained") / "best.pt"
    save_checkpoint(path, randomise(network.build("tsm_tiny", 2, (2, 8))), CARD)
    return path


@pytest.fixture
def clips(data: Path) -> Clips:
    """The test's twelve videos; the labels of the list are right."""
    return Clips(list_file=str(data / "list.txt"), batch_size=4)


def tensors_of(path: str | Path) -> dict[str, Tensor]:
    return load_checkpoint(path).network.state_dict()


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(each) for each in arguments], catch_exceptions=False)


# ------------------------------------------------------------------------------------- adapting


def test_a_frame_count_is_added_and_no_other_tensor_changes_by_a_bit(
    trained: Path, clips: Clips, tmp_path: Path
) -> None:
    before = tensors_of(trained)

    result = adapt(str(trained), str(tmp_path / "new.pt"), (4,), clips, epochs=1)

    after = load_checkpoint(tmp_path / "new.pt")
    tensors = after.network.state_dict()
    assert after.network.frame_counts == (2, 4, 8)
    assert changed(before, tensors) == set()
    added = tensors.keys() - before.keys()
    assert added and all(".norms.4." in name or name.endswith(".phi.4") for name in added)
    # It learned: no vector is still the nearest frame count's, from which it started.
    for name in added - {name for name in added if name.endswith("num_batches_tracked")}:
        assert not torch.equal(tensors[name], tensors[name.replace(".4", ".2")]), name
    assert (result.frame_counts, result.videos, result.broken_videos) == ((4,), 12, ())
    assert after.card.accuracy == KNOWN and after.training is None


def test_frames_are_drawn_by_the_rule_of_the_family(
    trained: Path, clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[int, int]] = []

    def last(num_frames: int, frames: int, rng: np.random.Generator) -> Indices:
        drawn.append((num_frames, frames))
        return np.full(frames, num_frames - 1)

    family = dataclasses.replace(network.family_of("tsm_tiny"), draw_frames=last)
    monkeypatch.setattr(adaptation, "family_of", lambda _: family)

    adapt(str(trained), str(tmp_path / "new.pt"), (4,), clips, epochs=1)

    assert set(drawn) == {(10, 4), (10, 8)}


def test_a_new_frame_count_starts_from_the_nearest_one(
    trained: Path, clips: Clips, tmp_path: Path
) -> None:
    adapt(str(trained), str(tmp_path / "new.pt"), (6,), clips, epochs=1, learning_rate=1e-12)

    tensors = tensors_of(tmp_path / "new.pt")
    for name, tensor in tensors.items():
        if name.endswith(("phi.6", "norms.6.weight", "norms.6.bias")):
            assert torch.allclose(tensor, tensors[name.replace(".6", ".8")], atol=1e-9), name


def test_nothing_stays_of_the_statistics_of_the_one_it_started_from(
    trained: Path, clips: Clips, tmp_path: Path
) -> None:
    loaded = load_checkpoint(trained)
    for name, tensor in loaded.network.state_dict().items():
        if ".norms.2.running" in name:  # the nearest to 4 frames
            tensor += 100
    save_checkpoint(tmp_path / "far.pt", loaded.network, loaded.card)

    adapt(str(trained), str(tmp_path / "one.pt"), (4,), clips, epochs=2)
    adapt(str(tmp_path / "far.pt"), str(tmp_path / "other.pt"), (4,), clips, epochs=2)

    differing = changed(tensors_of(tmp_path / "one.pt"), tensors_of(tmp_path / "other.pt"))
    assert differing and all(".norms.2.running" in name for name in differing)


def test_learning_brings_the_answers_nearer_to_those_of_the_highest_frame_count(
    trained: Path, clips: Clips, tmp_path: Path
) -> None:
    def loss(epochs: int, learning_rate: float) -> float:
        output = str(tmp_path / "new.pt")
        chosen = {"epochs": epochs, "learning_rate": learning_rate}
        return adapt(str(trained), output, (4,), clips, **chosen).loss[4]  # type: ignore[arg-type]

    assert loss(6, 1e-2) < 0.5 * loss(6, 1e-12)


def test_several_frame_counts_are_added_at_once_also_beyond_the_highest(
    trained: Path, clips: Clips, tmp_path: Path
) -> None:
    result = adapt(str(trained), str(tmp_path / "new.pt"), (4, 10), clips, epochs=1)

    assert set(result.loss) == {4, 10}
    assert load_checkpoint(tmp_path / "new.pt").network.frame_counts == (2, 4, 8, 10)


@pytest.mark.parametrize("line", ["{}.mp4", "{}.mp4 7", "  {}.mp4\t-1 "])
def test_labels_are_not_read(
    line: str, trained: Path, clips: Clips, data: Path, tmp_path: Path
) -> None:
    # The same videos with right labels, without, and with labels of classes that do not exist.
    unlabelled = tmp_path / "list.txt"
    unlabelled.write_text("".join(line.format(i) + "\n\n" for i in range(12)))
    others = dataclasses.replace(clips, list_file=str(unlabelled), root=str(data))

    adapt(str(trained), str(tmp_path / "one.pt"), (4,), clips, epochs=1)
    adapt(str(trained), str(tmp_path / "other.pt"), (4,), others, epochs=1)

    assert changed(tensors_of(tmp_path / "one.pt"), tensors_of(tmp_path / "other.pt")) == set()


def test_frame_folders_are_read_as_in_training(trained: Path, clips: Clips, tmp_path: Path) -> None:
    for folder in (tmp_path / "a b", tmp_path / "c"):
        folder.mkdir()
        for i in range(1, 11):
            cv2.imwrite(str(folder / f"{i:05d}.jpg"), np.full((32, 32, 3), 20 * i, np.uint8))
    (tmp_path / "list.txt").write_text("a b 10 99\nc 10\n")
    folders = dataclasses.replace(
        clips, list_file=str(tmp_path / "list.txt"), dataset="something-v1"
    )

    with pytest.raises(DataError, match="has 174 classes"):  # the facts are those of --dataset
        adapt(str(trained), str(tmp_path / "new.pt"), (4,), folders, epochs=1)
    folders = dataclasses.replace(folders, dataset=None)
    for folder in (tmp_path / "a b", tmp_path / "c"):
        for image in folder.iterdir():
            image.rename(folder / f"img_{image.name}")
    assert adapt(str(trained), str(tmp_path / "new.pt"), (4,), folders, epochs=1).videos == 2


def test_a_validation_list_gives_the_new_frame_count_its_accuracy(
    trained: Path, clips: Clips, tmp_path: Path
) -> None:
    validated = dataclasses.replace(clips, val_list=clips.list_file)

    result = adapt(str(trained), str(tmp_path / "new.pt"), (4,), validated, epochs=1)

    accuracy = load_checkpoint(tmp_path / "new.pt").card.accuracy
    assert accuracy == {2: KNOWN[2], 4: result.accuracy[4], 8: KNOWN[8]}
    assert list(accuracy) == [2, 4, 8]
    assert result.accuracy[4].clips == 12


@pytest.mark.parametrize(
    ("frames", "choices", "message", "hint"),
    [
        ((8,), {}, "has a sub-network for 8 frames already", "--recalibrate"),
        ((4,), {"epochs": 0}, "nothing is learned in 0 epochs", "leave them out"),
        ((4,), {"learning_rate": 0.0}, "nothing is learned", "leave them out"),
        ((4,), {"learning_rate": 1e30}, "learning diverged", "lower --learning-rate"),
        ((4, 2), {}, "must ascend", "write"),
    ],
)
def test_what_cannot_be_added_is_refused_and_nothing_is_written(
    frames: tuple[int, ...],
    choices: dict[str, float],
    message: str,
    hint: str,
    trained: Path,
    clips: Clips,
    tmp_path: Path,
) -> None:
    with pytest.raises(FfnEdgeError, match=message) as caught:
        adapt(str(trained), str(tmp_path / "new.pt"), frames, clips, **choices)  # type: ignore[arg-type]

    assert hint in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["sn", "ws"])
@pytest.mark.parametrize("change", [adapt, recalibrate])
def test_a_network_whose_frame_counts_have_no_norms_of_their_own_is_refused(
    change: Callable[..., object], part: str, clips: Clips, tmp_path: Path
) -> None:
    plain = network.build("tsm_tiny", 2, (2, 8), without=(part,))
    save_checkpoint(tmp_path / "plain.pt", plain, CARD)

    counts = (4,) if change is adapt else (2,)
    with pytest.raises(CheckpointError, match=f"was trained --without {part}"):
        change(str(tmp_path / "plain.pt"), str(tmp_path / "new.pt"), counts, clips)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"videos\.txt cannot be read"),
        ("\n", r"videos\.txt lists no video"),
        ("0.mp4\nabsent.mp4\n", r"videos\.txt, line 2: there is nothing at .*absent\.mp4"),
    ],
)
def test_a_bad_list_is_named_as_the_user_named_it(
    text: str | None, message: str, trained: Path, clips: Clips, data: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "videos.txt"
    if text is not None:
        bad.write_text(text)

    with pytest.raises(DataError, match=message) as caught:
        adapt(
            str(trained),
            str(tmp_path / "new.pt"),
            (4,),
            dataclasses.replace(clips, list_file=str(bad), root=str(data)),
        )

    assert str(bad) in caught.value.message


@pytest.mark.parametrize("change", [adapt, recalibrate])
@pytest.mark.parametrize(("name", "reason"), [("file/new.pt", "."), ("folder", "it is a folder")])
def test_an_output_that_cannot_be_written_is_found_before_anything_is_learned(
    change: Callable[..., object],
    name: str,
    reason: str,
    trained: Path,
    clips: Clips,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(adaptation, "model_inputs")
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()

    with pytest.raises(FfnEdgeError, match=f"{name} could not be written: {reason}") as caught:
        change(str(trained), str(tmp_path / name), (4,) if change is adapt else None, clips)

    assert caught.value.hint
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


@pytest.mark.parametrize("change", [adapt, recalibrate])
def test_several_processes_are_refused(
    change: Callable[..., object], clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="one process"):
        change("absent.pt", "new.pt", (4,), clips)


def test_bad_lists_are_found(
    trained: Path, clips: Clips, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "list.txt").write_text(f"broken.mp4\n{data / '0.mp4'}\n")
    (tmp_path / "val.txt").write_text("absent.mp4 0\n")
    broken = dataclasses.replace(clips, list_file=str(tmp_path / "list.txt"))
    absent = dataclasses.replace(clips, val_list=str(tmp_path / "val.txt"))

    with pytest.raises(DataError, match="1 of 2 videos"):  # once they are many
        recalibrate(str(trained), str(tmp_path / "new.pt"), None, broken)
    monkeypatch.delattr(MultiFrequencyLoss, "student")
    with pytest.raises(DataError, match="nothing at"):  # before anything is learned
        adapt(str(trained), str(tmp_path / "new.pt"), (4,), absent)


# -------------------------------------------------------------------------------- recalibrating


def test_recalibration_changes_the_statistics_of_its_frame_counts_and_nothing_else(
    trained: Path, clips: Clips, tmp_path: Path
) -> None:
    result = recalibrate(str(trained), str(tmp_path / "new.pt"), (8,), clips)

    before, after = tensors_of(trained), tensors_of(tmp_path / "new.pt")
    kept = ("running_mean", "running_var", "num_batches_tracked")
    statistics = tuple(f".norms.8.{name}" for name in kept)
    assert changed(before, after) == {name for name in before if name.endswith(statistics)}
    assert load_checkpoint(tmp_path / "new.pt").card.accuracy == {2: KNOWN[2]}  # 8: not known now
    assert (result.loss, result.frame_counts) == ({}, (8,))


@pytest.mark.parametrize("batch_size", [12, 5, 2])
def test_statistics_are_those_of_the_clips(
    batch_size: int, trained: Path, clips: Clips, tmp_path: Path
) -> None:
    chosen = dataclasses.replace(clips, batch_size=batch_size)
    recalibrate(str(trained), str(tmp_path / "new.pt"), None, chosen)

    # What enters the first norm does not depend on any norm, so it can be computed here.
    videos = videos_for(CARD, clips.list_file, (2, 8))
    body = load_checkpoint(tmp_path / "new.pt").network.body
    for frames in (2, 8):
        samples = np.stack([videos[0, i].clips[frames] for i in range(12)])
        inputs = to_model_input(torch.from_numpy(samples), CARD.mean, CARD.std).flatten(0, 1)
        with torch.no_grad():
            activations = body.conv1(inputs)
        norm = body.bn1.norms[str(frames)]
        mean = activations.mean((0, 2, 3))
        assert torch.allclose(norm.running_mean, mean, atol=1e-5)  # float32 sums in another order
        assert torch.allclose(norm.running_var, activations.var((0, 2, 3)), rtol=1e-5)


def test_a_network_without_batch_norms_has_no_statistics(
    trained: Path, clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(3)
            self.head = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.norm(x.mean((2, 3))))
            return logits

    normed = network.specialize(Tokens(), (2, 8), num_classes=2, branches=[], shift_fraction=None)
    monkeypatch.setattr(adaptation, "load_checkpoint", lambda _: Checkpoint(normed, CARD, None))

    with pytest.raises(CheckpointError, match="has no batch norm, and so no statistics"):
        recalibrate("any.pt", str(tmp_path / "new.pt"), None, clips)


def test_statistics_of_one_video_or_of_a_frame_count_that_is_not_there_are_refused(
    trained: Path, clips: Clips, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text(f"{data / '0.mp4'}\n")
    one = dataclasses.replace(clips, list_file=str(tmp_path / "list.txt"))
    with pytest.raises(DataError, match="one video"):
        recalibrate(str(trained), str(tmp_path / "new.pt"), None, one)
    with pytest.raises(CheckpointError, match="4 was asked for"):
        recalibrate(str(trained), str(tmp_path / "new.pt"), (2, 4), clips)


# ---------------------------------------------------------------------------------- the command


def test_the_command_writes_beside_the_checkpoint_and_reports(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    best = tmp_path / "best.pt"
    best.write_bytes(trained.read_bytes())
    options = ["--data", data / "list.txt", "--workers", 0, "--val-list", data / "list.txt"]

    added = invoke(best, "--frames", "4", *options, "--epochs", 1, "--json")
    taken = invoke(best, "--frames", "2", "--recalibrate", *options)

    fields = json.loads(added.stdout)
    assert fields["output"] == str(tmp_path / "best-4.pt")
    assert set(fields["loss"]) == {"4"} and fields["accuracy"]["4"]["clips"] == 12
    assert "is not known" not in added.stderr
    assert "2 frames, 12 videos" in taken.stdout and "top-1" in taken.stdout
    assert load_checkpoint(tmp_path / "best-4.pt").network.frame_counts == (2, 4, 8)
    assert load_checkpoint(tmp_path / "best-recalibrated.pt").network.frame_counts == (2, 8)


@pytest.mark.parametrize(
    ("options", "name"),
    [(["--frames", "4,6"], "best-4-6.pt"), (["--recalibrate"], "best-recalibrated.pt")],
)
def test_a_file_that_was_not_named_is_not_written_over(
    options: list[str], name: str, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "best.pt").touch()
    (tmp_path / name).write_bytes(b"an older one")

    with pytest.raises(CheckpointError, match=f"{name} exists already") as caught:
        invoke(tmp_path / "best.pt", *options, "--data", data / "list.txt")

    assert "-o FILE" in caught.value.hint
    assert (tmp_path / name).read_bytes() == b"an older one"


def test_a_file_that_was_named_is_written_over_and_an_accuracy_not_measured_is_said(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "new.pt"
    output.write_bytes(b"an older one")
    options = ["--data", data / "list.txt", "-o", output, "--workers", 0, "--epochs", 1]

    assert "accuracy at 4 frames is not known" in invoke(trained, "--frames", 4, *options).stderr
    assert load_checkpoint(output).network.frame_counts == (2, 4, 8)


@pytest.mark.parametrize(
    "arguments",
    [
        ["best.pt", "--data", "list.txt"],
        ["best.pt", "--frames", "12"],
        ["best.pt", "--data", "list.txt", "--recalibrate", "--epochs", "3"],
        ["best.pt", "--data", "list.txt", "--recalibrate", "--learning-rate", "0.1"],
        ["best.pt", "--data", "list.txt", "--frames", "12", "--epochs", "0"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(command, arguments).exit_code == 2


def test_an_interruption_leaves_nothing_and_says_so(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MultiFrequencyLoss, "student", interrupted)
    output = tmp_path / "new.pt"
    output.write_bytes(b"an older one")

    arguments = [trained, "--frames", 4, "--data", data / "list.txt", "-o", output, "--workers", 0]
    result = CliRunner().invoke(command, [str(each) for each in arguments])

    assert result.exit_code != 0
    assert f"stopped; {output} was not written" in result.stderr
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [
        ("new.pt", b"an older one")
    ]


def test_the_help_names_the_defaults_that_apply() -> None:
    text = " ".join(CliRunner().invoke(command, ["--help"]).stdout.split())

    assert f"[default: {adaptation.EPOCHS}]" in text
    assert f"[default: {adaptation.LEARNING_RATE}]" in text
