"""Which precision each frame count is to run in: pure functions of what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ffn_edge.bundle.bundle import MOST_LOSS, Precision, Quantized, SubNetwork

_ROUNDING = 1e-9  # of a difference of two shares
_BY_ROUNDING: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@dataclass(frozen=True, slots=True)
class Choice:
    """The precision of a frame count, and why, in words."""

    precision: Precision
    reason: str


def candidates(sub_network: SubNetwork, existing: Iterable[Precision]) -> tuple[Precision, ...]:
    """Return the precisions that are as accurate as float32, but for `MOST_LOSS`.

    float16 is: TensorRT's engines prove it by their known answers. What rounds least comes first.
    Where none of those that exist is accurate, they are all there is.
    """
    int8 = sub_network.int8
    is_accurate = int8 is not None and int8.loss <= MOST_LOSS + _ROUNDING
    ranked = tuple(sorted(existing, key=_BY_ROUNDING.index))
    return tuple(each for each in ranked if each != "int8" or is_accurate) or ranked


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
        latencies_ms: of the candidates; where there is one alone, none is needed.
    """
    existing = tuple(existing)
    accurate = candidates(sub_network, existing)
    chosen = min(accurate, key=lambda each: latencies_ms.get(each, 0.0))
    reasons = []
    if len(accurate) > 1:
        others = [f"{latencies_ms[each]:.3g} in {each}" for each in accurate if each != chosen]
        reasons.append(f"{latencies_ms[chosen]:.3g} ms against {', '.join(others)}")
    if sub_network.int8 is not None and "int8" in existing:
        lost = loss_in_words(sub_network.int8)
        if chosen == "int8":
            reasons.append(f"it {lost}")
        elif "int8" not in accurate:
            reasons.append(f"int8 {lost}, more than {100 * MOST_LOSS:g}")
    said = " and ".join(reasons) or "nothing else is there"
    return Choice(chosen, f"{frames} frames in {chosen}: {said}")


def loss_in_words(int8: Quantized) -> str:
    """Say what INT8 loses against float32, in points of accuracy."""
    if int8.loss <= _ROUNDING:
        return "loses nothing"
    points = f"{100 * int8.loss:.2g} points"
    return f"may lose up to {points}" if int8.accuracy is None else f"loses {points}"
