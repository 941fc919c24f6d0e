"""Whether decoding holds training back, and what is done about it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator

import torch

from ffn_edge.train.loading import Batch
from ffn_edge.train.recipe import Recipe

# Of an epoch, spent on waiting, from which it is said; and the seconds below which no one minds.
_MUCH, _SHORT_S = 0.25, 10.0
_log = logging.getLogger(__name__)


class Waiting:
    """Counts the time that a device had nothing to do but wait for batches; says once if much."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self._recipe = recipe
        self._device = device
        self._said = False
        self._fills_cache = recipe.cache_gib > 0

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield an epoch's batches, and judge it after the last that is asked for."""
        waited_s, began = 0.0, time.perf_counter()
        coming = iter(batches)
        try:
            while True:
                asked = time.perf_counter()
                batch = next(coming, None)
                if batch is None:
                    return
                if self._device.type == "cpu" or torch.cuda.current_stream(self._device).query():
                    waited_s += time.perf_counter() - asked
                yield batch
        finally:
            self._judge(waited_s, time.perf_counter() - began)

    def _judge(self, waited_s: float, epoch_s: float) -> None:
        if self._fills_cache:  # which takes its time, once
            self._fills_cache = False
            return
        if self._said or epoch_s < _SHORT_S or waited_s < _MUCH * epoch_s:
            return
        self._said = True
        _log.warning(
            "the last epoch waited for videos %.0f %% of its time: %s",
            100 * waited_s / epoch_s,
            "more --workers decode faster, and so do smaller videos"
            if self._recipe.cache_gib
            else "--set cache_gib=20 keeps 20 GiB of decoded frames on disk; more --workers "
            "decode faster, and so do smaller videos",
        )
