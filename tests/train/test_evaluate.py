"""`ffn-edge evaluate` and `import`, on real files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from ffn_edge.commands.evaluate import evaluate
from ffn_edge.commands.import_ import import_
from ffn_edge.errors import CheckpointError, FfnEdgeError, NetworkError
from ffn_edge.network import build
from ffn_edge.network.checkpoint import ModelCard, load_checkpoint, save_checkpoint
from ffn_edge.network.published import published_name
from ffn_edge.train.evaluate import evaluate_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that calls every clip "dark", so that its accuracy is known: six of twelve."""
    network = build("tsm_tiny", 2, (2, 4)).eval()
    with torch.no_grad():
        linear = network.body.get_submodule("fc.linear")
        linear.weight.zero_()  # type: ignore[operator, union-attr]
        linear.bias.copy_(torch.tensor([1.0, 0.0]))  # type: ignore[operator, union-attr]
    path = tmp_path_factory.mktemp("checkpoint") / "model.pt"
    save_checkpoint(path, network, ModelCard(classes=("dark", "bright"), size=32, short_side=32))
    return path


def test_each_frame_count_is_served_by_the_nearest_and_counted(
    checkpoint: Path, data: Path
) -> None:
    rows = evaluate_checkpoint(str(checkpoint), (1, 2, 3, 7), list_file=str(data / "list.txt"))
    assert [(row.frames, row.sub_network) for row in rows] == [(1, 2), (2, 2), (3, 4), (7, 4)]
    assert all((row.top1, row.top5, row.clips) == (0.5, 1.0, 12) for row in rows)
    assert rows[3].gmacs == pytest.approx(7 * rows[0].gmacs)


def test_evaluate_prints_a_table_json_and_a_plot(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    plot = tmp_path / "plot.png"
    arguments = [str(checkpoint), "--list", str(data / "list.txt"), "--frames", "2-4"]
    result = CliRunner().invoke(
        evaluate, [*arguments, "--workers", "0", "--plot", str(plot)], catch_exceptions=False
    )
    assert "50.0%" in result.output
    assert plot.read_bytes().startswith(b"\x89PNG")
    result = CliRunner().invoke(
        evaluate, [*arguments, "--workers", "0", "--json"], catch_exceptions=False
    )
    assert [row["frames"] for row in json.loads(result.stdout)] == [2, 3, 4]


def test_import_writes_a_checkpoint_of_ours(tmp_path: Path) -> None:
    network = build("tsm_resnet18", 3, (2, 4)).eval()
    state = {
        f"module.{published_name('tsm_resnet18', n)}": t for n, t in network.state_dict().items()
    }
    torch.save({"epoch": 7, "state_dict": state}, tmp_path / "published.pth")
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    result = CliRunner().invoke(
        import_,
        [
            str(tmp_path / "published.pth"),
            *("--arch", "tsm_resnet18", "-o", str(tmp_path / "model.pt")),
            *("--classes", str(tmp_path / "classes.txt")),
        ],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    loaded = load_checkpoint(tmp_path / "model.pt")
    assert loaded.card.classes == ("a", "b", "c") and loaded.network.frame_counts == (2, 4)
    clip = torch.randn(1, 4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.network(clip), network(clip))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_accuracy_is_made_of_answers_that_are_no_numbers(
    value: float, checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    loaded = load_checkpoint(checkpoint)
    with torch.no_grad():  # of one frame count alone
        loaded.network.body.get_submodule("bn1.norms.4").get_parameter("weight")[0] = value
    diverged, list_file = str(tmp_path / "diverged.pt"), str(data / "list.txt")
    save_checkpoint(diverged, loaded.network, loaded.card)

    assert evaluate_checkpoint(diverged, (2,), list_file=list_file)[0].clips == 12
    with pytest.raises(NetworkError, match="4 frames"):
        evaluate_checkpoint(diverged, (2, 4), list_file=list_file)


def test_a_checkpoint_that_is_not_there_is_an_error(data: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no file"):
        evaluate_checkpoint("absent.pt", (2,), list_file=str(data / "list.txt"))


@pytest.mark.parametrize(
    ("plot", "words"),
    [
        ("file/plot.png", "there is no folder"),
        ("plot.xyz", "names no format"),
        ("plot", "names no format"),
    ],
)
def test_a_picture_that_cannot_be_written_is_refused_before_anything_is_evaluated(
    plot: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    arguments = [__file__, "--list", __file__, "--plot", str(tmp_path / plot)]  # neither is read
    with pytest.raises(FfnEdgeError, match=words):
        CliRunner().invoke(evaluate, arguments, catch_exceptions=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
