"""The deviation is that of all activations at once, and is shown as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d

from ffn_edge.commands.deviation import deviation as command
from ffn_edge.errors import DataError, FfnEdgeError, FrameCountError, NetworkError
from ffn_edge.media.video_list import Video
from ffn_edge.network import FrameFlexibleNetwork, build, specialize
from ffn_edge.network.checkpoint import ModelCard
from ffn_edge.network.layers import Route, SpecializedNorm
from ffn_edge.train import moments as moments_module
from ffn_edge.train.deviation import (
    Deviation,
    Statistics,
    _choose,
    deviation_of_checkpoint,
    measure,
    norm_layers,
    shift,
)
from ffn_edge.train.deviation_report import json_of, plot_deviation, tables_of
from ffn_edge.train.loading import Batch, to_model_input
from ffn_edge.train.processes import ALONE

Randomise = Callable[[FrameFlexibleNetwork], FrameFlexibleNetwork]

CARD = ModelCard(classes=("a", "b", "c", "d", "e"), size=16, short_side=16)


class ClipNetwork(nn.Module):
    """Over (B, 3, T, H, W), with a norm of every kind of layout, and nothing along time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 4, (1, 4, 4), stride=(1, 4, 4))
        self.volume = nn.BatchNorm3d(4)
        self.image = LayerNorm2d(4)
        self.tokens = nn.LayerNorm(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Give logits (B, 5)."""
        x = self.volume(self.conv(x)).relu()  # (B, 4, T, 4, 4)
        # Channels, height and width are all 4: only the kind of norm says where channels are.
        x = self.image(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(x), -1))
        x = self.tokens(x.flatten(3).transpose(2, 3))  # (B, T, 16, 4)
        logits: Tensor = self.fc(x.mean((1, 2)))
        return logits


class TokenNetwork(nn.Module):
    """Over (B, 3, T, H, W), with a LayerNorm alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 1)
        self.norm = nn.LayerNorm(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Give logits (B, 5)."""
        tokens = self.norm(self.conv(x).flatten(2).transpose(1, 2))
        logits: Tensor = self.fc(tokens.mean(1))
        return logits


@pytest.fixture
def clip_network(randomise: Randomise) -> FrameFlexibleNetwork:
    torch.manual_seed(0)
    return randomise(
        specialize(ClipNetwork(), (2, 4), num_classes=5, layout="clip", branches=["conv"])
    )


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    """Two batches, of 3 and of 2 videos: their 2- and 4-frame clips, of 16×16 pixels."""
    generator = torch.Generator().manual_seed(0)

    def batch(videos: int) -> Batch:
        clips = {
            t: torch.randint(256, (videos, t, 16, 16, 3), generator=generator, dtype=torch.uint8)
            for t in (2, 4)
        }
        labels = torch.randint(5, (videos,), generator=generator)
        return Batch(clips, labels, list(range(videos)), ())

    return [batch(3), batch(2)]


def measured(
    network: FrameFlexibleNetwork, batches: list[Batch], sub_network: int | None = None
) -> Deviation:
    return measure(network, batches, 2, 4, CARD, processes=ALONE, sub_network=sub_network)


def activations(
    network: FrameFlexibleNetwork, batches: list[Batch], frames: int, sub_network: int
) -> dict[str, np.ndarray]:
    """All that enters each norm, float64 (R, C), kept whole."""
    entered: dict[str, list[np.ndarray]] = {}

    def keep(name: str, kind: type[nn.Module]) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor]) -> None:
            values = inputs[0].double().numpy()
            last = values if kind is nn.LayerNorm else np.moveaxis(values, 1, -1)
            entered.setdefault(name, []).append(last.reshape(-1, last.shape[-1]))

        return hook

    hooks = [
        layer.register_forward_pre_hook(keep(name, type(layer.norms["4"])))
        for name, layer in network.body.named_modules()
        if isinstance(layer, SpecializedNorm)
    ]
    with torch.inference_mode():
        for batch in batches:
            network(to_model_input(batch.clips[frames], CARD.mean, CARD.std), sub_network)
    for hook in hooks:
        hook.remove()
    return {name: np.concatenate(parts) for name, parts in entered.items()}


@pytest.mark.parametrize("layout", ["frames", "clip"])
def test_statistics_are_those_of_all_activations_at_once(
    layout: str,
    tiny: FrameFlexibleNetwork,
    clip_network: FrameFlexibleNetwork,
    batches: list[Batch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = tiny if layout == "frames" else clip_network
    monkeypatch.setattr(moments_module, "_PART", 64)  # many parts of every activation

    found = measured(network, batches)

    assert [one.name for one in found.passes] == ["2 by 4", "2 by 2", "4 by 4"]
    for one in found.passes:
        expected = activations(network, batches, one.frames, one.sub_network)
        norms = norm_layers(network, one.sub_network)
        assert list(one.layers) == list(expected) and set(expected) == set(norms)
        for name, values in expected.items():
            layer, eps = one.layers[name], float(norms[name].eps)  # type: ignore[arg-type]
            # float64 sums in another order: rounding only
            std = np.sqrt(values.var(0) + eps)
            np.testing.assert_allclose(layer.entering.mean, values.mean(0), rtol=0, atol=1e-12)
            np.testing.assert_allclose(layer.entering.std, std, rtol=1e-12)


def test_what_a_norm_normalises_with_is_its_running_statistics(
    clip_network: FrameFlexibleNetwork, batches: list[Batch]
) -> None:
    for sub_network, norm in ((2, 2), (4, 4)):
        values = activations(clip_network, batches, sub_network, norm)["volume"]
        running = norm_layers(clip_network, norm)["volume"]
        running.running_mean.copy_(torch.from_numpy(values.mean(0)))  # type: ignore[operator, union-attr]
        running.running_var.copy_(torch.from_numpy(values.var(0)))  # type: ignore[operator, union-attr]

    shared, own, reference = (one.mismatches() for one in measured(clip_network, batches).passes)

    assert shared["volume"] and own["volume"] and reference["volume"]
    # running statistics are float32
    assert max(own["volume"].mean, own["volume"].std, reference["volume"].mean) < 1e-6
    assert shared["volume"].mean > 0.01  # its input is altered by another φ and is other frames
    assert own["tokens"] is None and own["image"] is None  # a LayerNorm keeps none


def test_a_shift_is_in_deviations_of_the_reference() -> None:
    reference = Statistics(mean=np.array([1.0, 2.0]), std=np.array([2.0, 0.5]))
    moved = Statistics(mean=np.array([7.0, 4.0]), std=np.array([2.0 * np.e, 0.5 / np.e]))
    assert shift(moved, reference).mean == pytest.approx(np.sqrt((3**2 + 4**2) / 2))
    assert shift(moved, reference).std == pytest.approx(1)


def test_a_still_video_deviates_only_where_norms_differ(clip_network: FrameFlexibleNetwork) -> None:
    image = torch.randint(256, (3, 1, 16, 16, 3), dtype=torch.uint8)
    still = Batch(
        {t: image.repeat(1, t, 1, 1, 1) for t in (2, 4)}, torch.zeros(3).long(), [0, 1, 2], ()
    )

    shared, own = measured(clip_network, [still]).comparisons

    assert max(moved.mean for moved in shared.shifts().values()) < 1e-5  # float32 rounding
    assert shared.output.agreement == 1
    assert shared.output.kl == pytest.approx(0, abs=1e-6)
    assert shared.output.logit == pytest.approx(0, abs=1e-5)
    assert own.shifts()["tokens"].mean > 0.01 and own.output.logit > 0.01


def test_the_output_is_compared_clip_by_clip(
    tiny: FrameFlexibleNetwork, batches: list[Batch]
) -> None:
    low, high = (
        torch.cat(
            [tiny(to_model_input(b.clips[t], CARD.mean, CARD.std), t) for b in batches]
        ).double()
        for t in (2, 4)
    )
    p, q = high.softmax(1), low.softmax(1)
    labels = torch.cat([batch.labels for batch in batches])

    own = measured(tiny, batches).comparisons[1]

    assert own.output.agreement == pytest.approx((low.argmax(1) == high.argmax(1)).float().mean())
    assert own.output.kl == pytest.approx((p * (p / q).log()).sum(1).mean().item())
    assert own.output.logit == pytest.approx((low - high).abs().mean().item())
    assert own.low.top1 == pytest.approx((low.argmax(1) == labels).float().mean().item())
    assert own.high.top1 == pytest.approx((high.argmax(1) == labels).float().mean().item())


def test_each_frame_count_is_served_by_its_own_only_where_it_has_one(
    tiny: FrameFlexibleNetwork, batches: list[Batch]
) -> None:
    def names(network: FrameFlexibleNetwork, sub_network: int | None = None) -> list[str]:
        found = measured(network, batches, sub_network)
        return [f"{pair.low.name}, {pair.high.name}" for pair in found.comparisons]

    assert names(tiny) == ["2 by 4, 4 by 4", "2 by 2, 4 by 4"]
    assert names(tiny, 2) == ["2 by 2, 4 by 2"]
    assert names(build("tsm_tiny", 5, (8,)).eval()) == ["2 by 8, 4 by 8"]
    # Channels of networks that share no weight do not correspond.
    assert names(build("tsm_tiny", 5, (2, 4), without=("ws",)).eval()) == ["2 by 4, 4 by 4"]


def test_norms_that_are_not_specialised_are_measured_too(batches: list[Batch]) -> None:
    plain = measured(build("tsm_tiny", 5, (2, 4), without=("sn",)).eval(), batches)
    names = list(plain.passes[0].layers)
    assert names == list(norm_layers(build("tsm_tiny", 5, (2, 4)), 2)) and len(names) == 20


def test_a_network_leaves_no_hook_behind(tiny: FrameFlexibleNetwork, batches: list[Batch]) -> None:
    measured(tiny, batches)
    assert not any(module._forward_pre_hooks for module in tiny.modules())


def test_a_network_without_a_norm_is_refused(batches: list[Batch]) -> None:
    body = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    network = FrameFlexibleNetwork(body, Route(), (2, 4), architecture="bare", num_classes=5)
    with pytest.raises(NetworkError, match="bare has no norm layer"):
        measured(network, batches)


def test_a_network_that_has_diverged_is_refused(
    clip_network: FrameFlexibleNetwork, batches: list[Batch]
) -> None:
    clip_network.body.get_submodule("fc").bias.data[0] = torch.nan  # type: ignore[union-attr, operator]
    with pytest.raises(NetworkError, match="no numbers"):
        measured(clip_network, batches)


def test_no_clip_at_all_is_refused(tiny: FrameFlexibleNetwork) -> None:
    with pytest.raises(DataError, match="not one clip"):
        measured(tiny, [])


@pytest.mark.parametrize("frames", [(4,), (2, 3, 4)])
def test_two_frame_counts_are_compared(
    frames: tuple[int, ...], checkpoint_file: Path, data: Path
) -> None:
    with pytest.raises(FrameCountError, match="two different frame counts") as caught:
        deviation_of_checkpoint(str(checkpoint_file), frames, list_file=str(data / "list.txt"))
    assert "--frames 4,16" in caught.value.hint


def test_a_sub_network_that_does_not_exist_is_refused(checkpoint_file: Path, data: Path) -> None:
    with pytest.raises(FrameCountError, match="no sub-network for 3 frames") as caught:
        deviation_of_checkpoint(
            str(checkpoint_file), list_file=str(data / "list.txt"), sub_network=3
        )
    assert "2, 4" in caught.value.hint


def test_an_unknown_layer_is_answered_with_the_nearest(checkpoint_file: Path) -> None:
    with pytest.raises(NetworkError, match=r"no norm layer 'layer1\.0\.bn9'") as caught:
        # before the list is read
        deviation_of_checkpoint(str(checkpoint_file), list_file="absent", layer="layer1.0.bn9")
    assert "layer1.0.bn1" in caught.value.hint


def test_a_list_that_cannot_be_read_is_an_error(checkpoint_file: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        deviation_of_checkpoint(str(checkpoint_file), list_file=str(tmp_path / "absent.txt"))


def test_videos_that_would_repeat_frames_are_left_out(checkpoint_file: Path, data: Path) -> None:
    videos = [Video(Path(str(n)), 0, num_frames=n) for n in (4, 16, 15, 30, 17)]
    assert _choose(videos, 16, None) == (videos[1], videos[3], videos[4])
    assert len(_choose(videos, 16, 2)) == 2
    part = Video(data / "0.mp4", 0, None, start_s=0.2, end_s=0.5)  # of 10 frames at 10 Hz
    assert _choose([part], 3, None) == (part,)
    with pytest.raises(DataError, match="no video"):
        _choose([part], 4, None)
    whole = Video(data / "0.mp4", 0, None)
    assert _choose([whole], 5, None, 0.5) == (whole,)
    with pytest.raises(DataError, match="no video"):
        _choose([whole], 6, None, 0.5)
    # a video that cannot be opened is the loader's to report
    assert _choose([Video(Path("absent.mp4"), 0, None)], 16, None)
    with pytest.raises(DataError, match="no video of the list has 12 frames"):
        deviation_of_checkpoint(str(checkpoint_file), (2, 12), list_file=str(data / "list.txt"))


def run(checkpoint: Path, data: Path, *options: str) -> Result:
    return CliRunner().invoke(
        command,
        [str(checkpoint), "--list", str(data / "list.txt"), "--workers", "0", *options],
        catch_exceptions=False,
    )


def test_the_command_prints_tables_and_draws(
    checkpoint_file: Path, data: Path, tmp_path: Path
) -> None:
    plot = tmp_path / "plot.png"
    result = run(checkpoint_file, data, "--clips", "7", "--plot", str(plot))
    assert "What enters each norm, 7 clips of 2 and of 4 frames" in result.stdout
    assert "layer4.1.bn2" in result.stdout and "each by its own" in result.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_json_holds_every_layer_and_the_channels_of_one(checkpoint_file: Path, data: Path) -> None:
    found = json.loads(run(checkpoint_file, data, "--json", "--layer", "layer2.0.bn1").stdout)
    assert found["clips"] == 12 and found["layer"] == "layer2.0.bn1"
    assert [one["frames"] for one in found["passes"]] == [2, 2, 4]
    assert [pair["low"]["sub_network"] for pair in found["comparisons"]] == [4, 2]
    for pair in found["comparisons"]:
        assert len(pair["layers"]) == 20 and set(pair["layers"]["bn1"]) == {"mean", "std"}
        assert set(pair["output"]) == {"agreement", "kl", "logit"}
    for one in found["passes"]:
        assert len(one["entering"]["mean"]) == len(one["running"]["std"]) == 32


def test_what_keeps_no_statistics_is_shown_without_a_mismatch(
    batches: list[Batch], tmp_path: Path
) -> None:
    network = specialize(TokenNetwork(), (4,), num_classes=5, layout="clip", branches=["conv"])
    found = measured(network.eval(), batches)
    plot_deviation(found, str(tmp_path / "plot.svg"))
    assert "the norm holds" not in (tmp_path / "plot.svg").read_text()
    assert json_of(found)["passes"][0]["mismatch"] == {"norm": None}
    assert list(tables_of(found)[0].columns[2].cells) == ["–", "–"]


def test_a_plot_of_an_unknown_format_is_refused_before_measuring(
    checkpoint_file: Path, data: Path
) -> None:
    with pytest.raises(FfnEdgeError, match="names no format"):
        run(checkpoint_file, data, "--plot", "plot.docx")
