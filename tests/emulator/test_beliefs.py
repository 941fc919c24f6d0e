"""The emulator holds to what `benchmarks/gpu/driver.py` asserts of a device."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import reduce

import pytest

from benchmarks.gpu.driver import CHECKS, Bench, bench_for
from tests.emulator.beliefs import BELIEFS, Belief


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_emulator_does_what_is_asserted_of_a_device(check: Callable[[Bench], str]) -> None:
    with bench_for(dry_run=True) as bench:
        assert check(bench)


def test_every_check_stands_for_a_belief() -> None:
    named = {belief.check for belief in BELIEFS} - {None}
    assert named == {check.__name__ for check in CHECKS}


@pytest.mark.parametrize("belief", BELIEFS, ids=lambda belief: belief.text)
def test_a_belief_is_where_it_says_and_has_a_check_or_a_reason(belief: Belief) -> None:
    module, *names = belief.where.split(".")
    found = importlib.import_module(f"tests.emulator.{module}")
    reduce(getattr, names, found)
    assert bool(belief.check) != bool(belief.reason)
