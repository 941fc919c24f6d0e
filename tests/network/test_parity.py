"""The networks give what the paper's published code gives, for the same tensors and inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ffn_edge import network
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.published import published_name
from ffn_edge.train.objective import LossTerms, MultiFrequencyLoss
from tests.data.parity.cases import (
    FRAME_COUNTS,
    input_clip,
    published_shapes,
    published_tensor,
    read_case,
    relative_error,
)


@pytest.mark.parametrize("arch", FRAME_COUNTS)
def test_an_imported_network_gives_the_published_results(arch: str) -> None:
    case = read_case(arch)
    shapes = published_shapes(arch, case)

    model = network.import_published(
        arch, {f"module.{name}": published_tensor(name, shape) for name, shape in shapes.items()}
    )

    assert (model.frame_counts, model.num_classes) == (FRAME_COUNTS[arch], 174)
    for each in case["cases"]:
        # float32 sums in another order; the case itself has seven digits
        assert relative_error(model, each) < 1e-4


@pytest.fixture(scope="module")
def state_dict() -> dict[str, Tensor]:
    keys = read_case("tsm_resnet18")["keys"]
    return {name: published_tensor(name, shape) for name, shape in keys.items()}


@pytest.fixture(scope="module")
def training_case() -> dict[str, Any]:
    return read_case("tsm_resnet18_train")


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
