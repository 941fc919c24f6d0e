"""Which values occur in tensors, and the scales of INT8 that follow."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping

import numpy as np
from onnxruntime.quantization.calibrate import (  # type: ignore[import-untyped]
    HistogramCollector,
)

from ffn_edge.export.graph_session import Floats
from ffn_edge.export.int8_graph import LARGEST

METHODS = ("percentile", "max")
# The share of a tensor's values, in %, that its range holds.
_PERCENTILE = 99.999
# Of a tensor, so many values a clip go into its histogram.
_VALUES = 1 << 14
_BINS = 2048


class Ranges:
    """The values of tensors over many clips, in the histograms of ONNX Runtime's calibrators."""

    def __init__(self) -> None:
        self._largest: dict[str, float] = {}
        self._collector = HistogramCollector(
            method="percentile",
            symmetric=True,
            num_bins=_BINS,
            num_quantized_bins=2 * LARGEST + 1,
            percentile=_PERCENTILE,
            scenario=None,
        )

    def add(self, values: Mapping[str, Floats]) -> None:
        """Note the values of one clip: the largest of all, and the distribution of some."""
        some = {}
        for name, tensor in values.items():
            sizes = np.abs(tensor).reshape(-1)  # of signed values, the collector forgets the least
            self._largest[name] = max(self._largest.get(name, 0.0), float(sizes.max()))
            some[name] = sizes[:: sizes.size // _VALUES | 1]
        with contextlib.redirect_stdout(io.StringIO()):  # it says what it does
            self._collector.collect(some)

    def scales(self, method: str) -> dict[str, float]:
        """Return each tensor's scale. What is always 0 can have any."""
        ends = self._largest
        if method == "percentile":
            with contextlib.redirect_stdout(io.StringIO()):
                found = self._collector.compute_collection_result()
            ends = {name: float(found[name][1]) for name in ends}
        return {name: (end or 1.0) / LARGEST for name, end in ends.items()}
