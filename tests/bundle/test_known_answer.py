"""The known-answer test: fixed clips, stored logits, and what is said of an engine that differs."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
import torch

from ffn_edge.bundle.bundle import Bundle, InputContract
from ffn_edge.bundle.known_answer import TOLERANCES, fault, known_clips, known_logits, tolerance
from ffn_edge.errors import EngineError
from ffn_edge.network import FrameFlexibleNetwork

CONTRACT = InputContract(batch=2, height=24, width=32, short_side=40, mean=(0.5,), std=(0.25,))
EXPECTED = np.array([[[1.0, -4.0, 2.0]], [[0.5, 3.0, 2.0]]], np.float32)


def test_the_clips_are_the_same_everywhere() -> None:
    # Bundles carry the answers, so the questions are part of their format.
    clips = known_clips(CONTRACT, 4)

    assert clips.shape == (2, 2, 4, 24, 32, 3)
    assert hashlib.sha256(clips.tobytes()).hexdigest() == (
        "f331d80a4ad707c82b482313b052aec11664f07537d53670631d09d72d1c2617"
    )


def test_the_clips_differ_from_each_other_and_move() -> None:
    first, second = known_clips(CONTRACT, 4)[:, 0].astype(int)

    assert np.abs(first - second).mean() > 30
    for clip in (first, second):
        assert np.abs(np.diff(clip, axis=0)).mean() > 10
        assert clip.std() > 30


@pytest.mark.parametrize("frames", [2, 4])
def test_a_bundle_holds_the_answers_of_its_network(
    frames: int, exported: Bundle, tiny: FrameFlexibleNetwork
) -> None:
    contract = exported.manifest.input
    mean = torch.tensor(contract.mean).reshape(3, 1, 1)
    std = torch.tensor(contract.std).reshape(3, 1, 1)
    for clip, logits in zip(
        known_clips(contract, frames), known_logits(exported.tensors(), frames), strict=True
    ):
        pixels = torch.from_numpy(clip).permute(0, 1, 4, 2, 3) / 255
        with torch.inference_mode():
            expected = tiny((pixels - mean) / std, frames=frames).numpy()
        # float32, the folded sums in another order
        assert np.abs(logits - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_bundle_without_answers_is_to_be_exported_again() -> None:
    with pytest.raises(EngineError, match="no known answer for 4 frames") as caught:
        known_logits({}, 4)
    assert "export it again" in caught.value.hint


def test_the_right_answer_and_its_rounding_pass() -> None:
    assert fault(EXPECTED, EXPECTED, 1e-6) is None
    assert fault(EXPECTED * np.float32(1.01), EXPECTED, TOLERANCES["fp32"]) is None


def test_an_answer_that_is_off_is_said_with_how_much() -> None:
    wrong = EXPECTED + np.float32([0, 0.4, 0])
    assert "off by 0.13" in str(fault(wrong, EXPECTED, TOLERANCES["fp16"]))


@pytest.mark.parametrize(
    ("deviation", "expected"),
    [(0.1, 0.2), (0.0, TOLERANCES["fp16"]), (0.01, TOLERANCES["fp16"]), (3.0, 0.5)],
)
def test_an_int8_engine_may_be_off_by_twice_what_int8_itself_is(
    deviation: float, expected: float, exported_int8: Bundle
) -> None:
    manifest = exported_int8.manifest
    sub_network = manifest.sub_networks[2]
    assert sub_network.int8 is not None
    int8 = dataclasses.replace(sub_network.int8, deviation=deviation)
    sub_networks = {2: dataclasses.replace(sub_network, int8=int8), 4: sub_network}
    manifest = dataclasses.replace(manifest, sub_networks=sub_networks)
    assert tolerance(manifest, 2, "int8") == expected
    assert tolerance(manifest, 2, "fp16") == TOLERANCES["fp16"]


def test_output_that_does_not_change_is_told_from_output_that_is_off() -> None:
    stale = EXPECTED[[0, 0]]
    assert fault(stale, EXPECTED, 10.0) == "its output does not change with the input"


def test_a_network_that_knows_no_difference_may_give_one_answer() -> None:
    assert fault(EXPECTED[[0, 0]], EXPECTED[[0, 0]], 1e-6) is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_output_that_is_not_finite_is_a_fault(value: float) -> None:
    broken = EXPECTED.copy()
    broken[1, 0, 2] = value
    assert fault(broken, EXPECTED, 1.0) == "its output is not finite"
