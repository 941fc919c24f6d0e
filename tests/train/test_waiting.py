"""Decoding that holds training back is said once, with what helps."""

from __future__ import annotations

import time

import pytest
import torch

from ffn_edge.train import waiting
from ffn_edge.train.loading import Batch
from ffn_edge.train.recipe import Recipe
from ffn_edge.train.waiting import Waiting

BATCH = Batch({}, torch.empty(0), [], ())


class Clock:
    """Stands in for `time`."""

    now_s = 0.0

    def perf_counter(self) -> float:
        """The time that a test sets."""
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    assert waiting.time is time
    clock = Clock()
    monkeypatch.setattr(waiting, "time", clock)
    return clock


def warnings_of(
    recipe: Recipe,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    epochs: list[tuple[float, float]],
) -> list[str]:
    """What is said after each epoch, of 10 steps of so many seconds of waiting and learning."""
    watched = Waiting(recipe, torch.device("cpu"))

    def batches(wait_s: float) -> object:
        for _ in range(10):
            clock.now_s += wait_s
            yield BATCH

    said = []
    for wait_s, learn_s in epochs:
        caplog.clear()
        for _ in watched.watch(batches(wait_s)):  # type: ignore[arg-type]
            clock.now_s += learn_s
        said.append(caplog.text)
    return said


def test_it_is_said_once(recipe: Recipe, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    said = warnings_of(recipe, clock, caplog, [(1, 4), (2, 4), (2, 4)])
    assert [bool(text) for text in said] == [False, True, False]
    assert "33 %" in said[1] and "cache_gib" in said[1]


def test_an_epoch_that_fills_the_cache_or_is_short_counts_for_nothing(
    recipe: Recipe, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    cached = recipe.replace(cache_gib=1.0)
    said = warnings_of(cached, clock, caplog, [(9, 1), (0.4, 0.4), (9, 1)])
    assert [bool(text) for text in said] == [False, False, True]
    assert "cache_gib" not in said[2]
