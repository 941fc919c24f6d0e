"""The networks give what the paper's published code gives, for the same tensors and inputs.

A case in tests/data/parity has inputs by seed and the results of the published implementation in
float32 on a CPU. It lists the tensors of a published checkpoint (name -> shape), or has the
checksum of their names. Each tensor's values follow from its name alone and each input's from its
seed, so a case is a small text file.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ffn_edge import network
from ffn_edge.network import FrameFlexibleNetwork, family_of
from ffn_edge.network.published import published_name
from ffn_edge.train.objective import LossTerms, MultiFrequencyLoss

CASES = Path(__file__).parents[1] / "data" / "parity"

FRAME_COUNTS = {
    "tsm_resnet18": (4, 8, 16),
    "tsm_resnet50": (4, 8, 16),
    "tsm_resnet101": (4, 8, 16),
    "tea_resnet50": (4, 8, 16),
    "slowfast_resnet50": (16, 32, 64),
    "uniformer_small": (4, 8, 16),
}

PublishedTensor = Callable[[str, Sequence[int]], Tensor]


def input_clip(
    seed: int, batch: int, frames: int, size: int, *, frame_major: bool = True
) -> Tensor:
    """Make an input, normalised: float32 (B, T, 3, H, W).

    The published 2D networks take (B, T·3, H, W), and the 3D networks (B, 3, T, H, W).
    """
    order = (frames, 3) if frame_major else (3, frames)
    values = np.random.default_rng(seed).standard_normal((batch, *order, size, size))
    clip = torch.from_numpy(values.astype(np.float32))
    return clip if frame_major else clip.transpose(1, 2)


def read_case(name: str) -> dict[str, Any]:
    case: dict[str, Any] = json.loads((CASES / name).read_text())
    return case


def published_shapes(arch: str, case: dict[str, Any]) -> dict[str, Sequence[int]]:
    """Return the names and shapes of the tensors of a case's checkpoint."""
    if "keys" in case:
        shapes: dict[str, Sequence[int]] = case["keys"]
        return shapes
    with torch.device("meta"):
        ours = network.build(arch, len(case["cases"][0]["logits"])).state_dict()
    shapes = {published_name(arch, name): tensor.shape for name, tensor in ours.items()}
    assert zlib.crc32("\n".join(sorted(shapes)).encode()) == case["names_crc32"]
    return shapes


def relative_error(model: FrameFlexibleNetwork, case: dict[str, Any]) -> float:
    """Return max|ours − published| / max|published| of one input of a case."""
    clip = input_clip(
        case["input_seed"],
        1,
        case["frames"],
        case["size"],
        frame_major="frame-major" in case["input_layout"],
    )
    naming = family_of(model.architecture).published
    if naming is not None and naming.blue_first is not None:
        clip = clip.flip(2)  # the published input is blue, green, red; ours is red, green, blue
    with torch.inference_mode():
        results = model(clip, frames=case["subnetwork"])[0]
    if "softmax" in case:  # the published SlowFast ends in it
        results = results.softmax(0)
    expected = torch.tensor(case["softmax" if "softmax" in case else "logits"])
    return float((results - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("arch", FRAME_COUNTS)
def test_an_imported_network_gives_the_published_results(
    arch: str, published_tensor: PublishedTensor
) -> None:
    case = read_case(f"{arch}.json")
    shapes = published_shapes(arch, case)

    model = network.import_published(
        arch, {f"module.{name}": published_tensor(name, shape) for name, shape in shapes.items()}
    )

    assert (model.frame_counts, model.num_classes) == (FRAME_COUNTS[arch], 174)
    for each in case["cases"]:
        # float32 sums in another order; the case itself has seven digits
        assert relative_error(model, each) < 1e-4


@pytest.fixture(scope="module")
def state_dict(published_tensor: PublishedTensor) -> dict[str, Tensor]:
    keys = read_case("tsm_resnet18.json")["keys"]
    return {name: published_tensor(name, shape) for name, shape in keys.items()}


@pytest.fixture(scope="module")
def training_case() -> dict[str, Any]:
    return read_case("tsm_resnet18_train.json")


def train_step(
    case: dict[str, Any], state_dict: dict[str, Tensor], *, together: bool
) -> tuple[FrameFlexibleNetwork, LossTerms]:
    """Run one step's forward and backward pass in training mode, without dropout."""
    model = network.import_published("tsm_resnet18", state_dict).train()
    model.body.fc.dropout.p = 0.0
    clips = {
        int(frames): input_clip(seed, case["batch"], int(frames), case["size"])
        for frames, seed in case["input_seeds"].items()
    }
    terms = MultiFrequencyLoss(weight=1.0)(
        model(clips, together=together), torch.tensor(case["targets"])
    )
    terms.total.backward()
    return model, terms


@pytest.mark.parametrize("together", [False, True], ids=["one after the other", "in one call"])
def test_a_training_step_gives_the_published_losses_gradients_and_statistics(
    training_case: dict[str, Any], state_dict: dict[str, Tensor], together: bool
) -> None:
    model, terms = train_step(training_case, state_dict, together=together)

    assert terms.cross_entropy.item() == pytest.approx(training_case["cross_entropy"], abs=1e-5)
    assert terms.total.item() == pytest.approx(training_case["total"], abs=1e-5)
    for frames, expected in training_case["kl"].items():
        assert terms.distillation[int(frames)].item() == pytest.approx(expected, abs=1e-5)
    gradients = {published_name("tsm_resnet18", n): p.grad for n, p in model.named_parameters()}
    for name, expected in training_case["grad_norms"].items():
        assert gradients[name] is not None, name
        assert gradients[name].norm().item() == pytest.approx(expected, rel=1e-3), name
    statistics = {published_name("tsm_resnet18", n): b for n, b in model.named_buffers()}
    for name, (expected,) in training_case["running_stat_sums_after"].items():
        # a sum of 64 values of either sign: relative to their sizes, not to the sum
        assert statistics[name].sum().item() == pytest.approx(expected, rel=1e-4, abs=1e-4), name
