"""The networks give what the paper's published code gives, for the same tensors and inputs.

A case in tests/data/parity lists the tensors of a published checkpoint (name -> shape), inputs by
seed, and the results of the published implementation in float32 on a CPU. Each tensor's values
follow from its name alone and each input's from its seed, so a case is a small text file.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from ffn_edge import network
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.published import published_name
from ffn_edge.train.objective import LossTerms, MultiFrequencyLoss

CASES = Path(__file__).parents[1] / "data" / "parity"

Floats = npt.NDArray[np.float32]


def published_tensor(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
    """Make the values of a published checkpoint's tensor."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.full(shape, 7, np.int64)
    if name.endswith("running_var"):
        values = rng.uniform(0.5, 1.5, shape)
    elif name.endswith("running_mean"):
        values = rng.standard_normal(shape) * 0.2
    elif "adaconv" in name:
        values = rng.standard_normal(shape) * 0.3
    elif name.endswith("bias"):
        values = rng.standard_normal(shape) * 0.1
    elif len(shape) == 1:  # a norm's weight
        values = rng.uniform(0.4, 0.8, shape)
    else:
        values = rng.standard_normal(shape) * np.sqrt(1.6 / np.prod(shape[1:]))
    return values.astype(np.float32)


def input_clip(seed: int, batch: int, frames: int, size: int) -> Tensor:
    """Make an input, normalised: float32 (B, T, 3, H, W)."""
    shape = (batch, frames * 3, size, size)  # published layout: frame-major channels
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return torch.from_numpy(values).reshape(batch, frames, 3, size, size)


def read_case(name: str) -> dict[str, Any]:
    case: dict[str, Any] = json.loads((CASES / name).read_text())
    return case


@pytest.fixture(scope="module")
def logits_case() -> dict[str, Any]:
    return read_case("tsm_resnet18.json")


@pytest.fixture(scope="module")
def state_dict(logits_case: dict[str, Any]) -> dict[str, Tensor]:
    return {
        f"module.{name}": torch.from_numpy(published_tensor(name, tuple(shape)))
        for name, shape in logits_case["keys"].items()
    }


def test_an_imported_network_gives_the_published_logits(
    logits_case: dict[str, Any], state_dict: dict[str, Tensor]
) -> None:
    model = network.import_published("tsm_resnet18", state_dict)

    assert model.frame_counts == (4, 8, 16)
    for case in logits_case["cases"]:
        clip = input_clip(case["input_seed"], 1, case["frames"], case["size"])
        expected = torch.tensor(case["logits"])
        with torch.inference_mode():
            logits = model(clip, frames=case["subnetwork"])[0]
        # float32 sums in another order; the case itself has seven digits
        assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()


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
