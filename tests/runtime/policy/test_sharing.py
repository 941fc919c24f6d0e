"""Frames for several cameras, against every way to give them out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ffn_edge.runtime.policy.interface import OperatingPoint
from ffn_edge.runtime.policy.sharing import Claim, allot

POINTS = [
    OperatingPoint(frames=4, base_ms=10, accuracy=0.7, clips=400, power_w=2.0),
    OperatingPoint(frames=8, base_ms=20, accuracy=0.8, clips=400, power_w=2.0),
    OperatingPoint(frames=16, base_ms=40, accuracy=0.85, clips=400, power_w=2.0),
]
BUSY = {"a": Claim(hop_s=0.1), "b": Claim(hop_s=0.1)}


def busy(shares: dict[str, int], claims: dict[str, Claim]) -> float:
    base_ms = {point.frames: point.base_ms for point in POINTS}
    return sum(base_ms[t] / 1e3 / claims[name].hop_s for name, t in shares.items())


def test_where_there_is_room_every_camera_has_the_most_frames() -> None:
    assert allot(POINTS, {"a": Claim(hop_s=1), "b": Claim(hop_s=1)}) == {"a": 16, "b": 16}


def test_what_there_is_goes_to_the_camera_in_doubt() -> None:
    claims = {"sure": Claim(hop_s=0.08, doubt=0.01), "unsure": Claim(hop_s=0.08, doubt=0.6)}
    assert allot(POINTS, claims) == {"sure": 8, "unsure": 16}
    assert allot(POINTS, claims, slowdown=1.3) == {"sure": 4, "unsure": 16}


def test_what_there_is_goes_to_the_heavier_camera_and_not_to_a_still_one() -> None:
    claims = {"light": Claim(hop_s=0.08), "heavy": Claim(hop_s=0.08, weight=3)}
    assert allot(POINTS, claims) == {"light": 8, "heavy": 16}
    claims = {"still": Claim(hop_s=0.08, weight=3, still=True), "busy": Claim(hop_s=0.08)}
    assert allot(POINTS, claims) == {"still": 8, "busy": 16}


def test_power_is_shared_as_time_is() -> None:
    # 16 frames every 0.1 s are busy for 0.4 of the time, at 2 W.
    assert allot(POINTS, BUSY, spare_w=1.21) == {"a": 16, "b": 8}
    assert allot(POINTS, BUSY, spare_w=0.81) == {"a": 8, "b": 8}
    assert allot(POINTS, BUSY, spare_w=0.0) == {"a": 4, "b": 4}


def test_every_camera_has_the_fewest_frames_whatever_they_take() -> None:
    claims = {name: Claim(hop_s=0.01) for name in "abcd"}
    assert set(allot(POINTS, claims).values()) == {4}


def test_what_was_given_out_stays_until_it_fits_no_more_or_another_is_better() -> None:
    claims = {"a": Claim(hop_s=0.08, doubt=0.50), "b": Claim(hop_s=0.08, doubt=0.55)}
    assert allot(POINTS, claims) == {"a": 8, "b": 16}
    before = {"a": 16, "b": 8}
    assert allot(POINTS, claims, before=before) == before
    assert allot(POINTS, claims, before=before, slowdown=2.0) == {"a": 4, "b": 8}
    more = {**claims, "b": Claim(hop_s=0.08, doubt=1.0)}
    assert allot(POINTS, more, before=before) == {"a": 8, "b": 16}
    assert allot(POINTS, {"b": claims["b"]}, before=before) == {"b": 16}


def test_without_accuracies_more_frames_are_taken_to_be_better() -> None:
    points = [OperatingPoint(frames=t, base_ms=t) for t in (4, 8, 16)]
    assert allot(points, {"a": Claim(hop_s=0.1)}) == {"a": 16}


def test_differences_that_validation_cannot_tell_are_none() -> None:
    points = [
        OperatingPoint(frames=8, base_ms=20, accuracy=0.91, clips=100),
        OperatingPoint(frames=16, base_ms=40, accuracy=0.90, clips=100),
    ]
    assert allot(points, {"a": Claim(hop_s=1)}) == {"a": 16}


def test_more_frames_that_were_measured_to_be_worse_are_not_given_out() -> None:
    points = [
        OperatingPoint(frames=8, base_ms=20, accuracy=0.9, clips=400),
        OperatingPoint(frames=16, base_ms=40, accuracy=0.7, clips=400),
    ]
    assert allot(points, {"a": Claim(hop_s=1)}) == {"a": 8}


@pytest.mark.parametrize("seed", range(20))
def test_it_is_within_a_step_of_the_best_of_all_ways(seed: int) -> None:
    rng = np.random.default_rng(seed)
    claims = {
        name: Claim(hop_s=rng.uniform(0.08, 0.4), weight=rng.uniform(0.5, 2), doubt=rng.random())
        for name in "abc"
    }
    accuracy = {point.frames: point.accuracy or 0.0 for point in POINTS}

    def worth(shares: dict[str, int]) -> float:
        return sum(claims[name].interest * (accuracy[t] - 0.7) for name, t in shares.items())

    spare_w = rng.uniform(0.3, 2.4)
    found = allot(POINTS, claims, spare_w=spare_w)
    least = dict.fromkeys(claims, 4)
    fitting = [
        dict(zip(claims, each, strict=True))
        for each in itertools.product((4, 8, 16), repeat=3)
        if busy(dict(zip(claims, each, strict=True)), claims) <= min(0.85, spare_w / 2)
    ]
    assert found == least or found in fitting
    best = max((worth(each) for each in fitting), default=0.0)
    step = max(claim.interest for claim in claims.values()) * 0.1
    assert worth(found) >= best - step
