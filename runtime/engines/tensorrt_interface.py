"""TensorRT's engines by the precision of each frame count, over a group that knows one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from ffn_edge.bundle.bundle import Bundle, Precision
from ffn_edge.device.gpu import find_gpu
from ffn_edge.device.plan_cache import REFITS, PlanCache, plan_key
from ffn_edge.device.tensorrt_api import Target, load
from ffn_edge.runtime.engines import tensorrt_group

_BUILT: tuple[Precision, ...] = ("fp16", "fp32")


class TensorRTGroup(tensorrt_group.TensorRTGroup):
    """The engines of a bundle, each in its precision, opened by a context manager."""

    def __init__(
        self,
        bundle: Bundle,
        target: Target,
        precisions: Mapping[int, Precision],
        *,
        resident: str = "all",
        cache: Path | None = None,
    ) -> None:
        self.precisions: dict[int, Precision] = dict(precisions)
        (precision,) = set(precisions.values())
        super().__init__(
            bundle, target, precisions, precision=precision, resident=resident, cache=cache
        )

    def __enter__(self) -> TensorRTGroup:
        super().__enter__()
        return self


def built_precisions(
    bundle: Bundle, target: Target, frame_counts: Iterable[int], cache: Path | None
) -> dict[int, tuple[Precision, ...]]:
    """Return in which precisions each frame count was built for this machine, fastest first."""
    gpu, api, plans = find_gpu(), load(target), PlanCache(cache)
    return {
        frames: tuple(
            precision
            for precision in _BUILT
            if any(
                plans.find(plan_key(api, gpu, bundle, frames, precision, refit)) for refit in REFITS
            )
        )
        for frames in frame_counts
    }
