"""Which precision each frame count is to run in: pure functions of what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

from ffn_edge.bundle.bundle import ENOUGH_CLIPS, MOST_LOSS, Precision, Quantized, SubNetwork
from ffn_edge.errors import EngineError, counted

_BY_ROUNDING: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True, slots=True)
class Choice:
    """The precision of a frame count, and why, in words."""

    precision: Precision
    reason: str


def candidates(sub_network: SubNetwork, existing: Iterable[Precision]) -> tuple[Precision, ...]:
    """Return the precisions that are as accurate as float32, but for `MOST_LOSS`.

    float16 is: TensorRT's engines prove it by their known answers. What rounds least comes first.
    """
    is_accurate = sub_network.int8 is not None and sub_network.int8.is_accurate
    ranked = sorted(existing, key=_BY_ROUNDING.index)
    return tuple(each for each in ranked if each != "int8" or is_accurate)


def choose_precision(
    frames: int,
    sub_network: SubNetwork,
    existing: Iterable[Precision],
    latencies_ms: Mapping[Precision, float],
) -> Choice:
    """Choose the fastest of the `candidates`; of equally fast ones, what rounds least.

    Args:
        frames: T.
        sub_network: of the bundle's manifest.
        existing: what can be opened here, one at least.
        latencies_ms: of those candidates that work; where there is one alone, none is needed.

    Raises:
        EngineError: none of them is as accurate as float32.
    """
    existing = tuple(existing)
    accurate = [
        each
        for each in candidates(sub_network, existing)
        if not latencies_ms or each in latencies_ms
    ]
    int8 = sub_network.int8 if "int8" in existing else None
    too_much = ""
    if int8 is not None and not int8.is_accurate:
        too_much = f"int8 {_loss_in_words(int8)}"
    if not accurate:
        raise EngineError(
            f"nothing else is there for {frames} frames, and {too_much}",
            "ffn-edge build BUNDLE --precision fp16; or take it as it is: --precision int8.",
        )
    chosen = min(accurate, key=lambda each: latencies_ms.get(each, 0.0))
    reasons = []
    if len(accurate) > 1:
        others = [f"{latencies_ms[each]:.3g} in {each}" for each in accurate if each != chosen]
        reasons.append(f"{latencies_ms[chosen]:.3g} ms against {', '.join(others)}")
    if int8 is not None and chosen == "int8":
        reasons.append(f"it {_loss_in_words(int8)}")
    if too_much:
        reasons.append(too_much)
    absent = "nothing else is there" if sub_network.int8 else "it was not quantised"
    said = " and ".join(reasons) or absent
    return Choice(chosen, f"{frames} frames in {chosen}: {said}")


def _loss_in_words(int8: Quantized) -> str:
    """Say what INT8 loses against float32, in points of accuracy."""
    if int8.loss is None:
        return "loses what no labels have shown: ffn-edge verify --precision int8 --labels"
    clips = counted(int8.compared_on, "clip")
    if int8.compared_on < ENOUGH_CLIPS:
        return f"was measured on {clips}, and {ENOUGH_CLIPS} are the least"
    if round(int8.loss, 9) <= 0:
        return f"lost nothing on {clips}"
    more = "" if int8.is_accurate else f", more than {100 * MOST_LOSS:g}"
    return f"lost {100 * int8.loss:.2g} points on {clips}{more}"
