"""What is said where a library is not installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from ffn_edge.errors import FfnEdgeError
from ffn_edge.runtime.outputs.paho import paho
from ffn_edge.runtime.outputs.prometheus import prometheus


@pytest.mark.parametrize(
    ("library", "module"),
    [(paho, "paho.mqtt.client"), (prometheus, "prometheus_client.core")],
)
def test_a_missing_library_is_named_with_what_brings_it(
    library: Callable[[], ModuleType], module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    uncached: Callable[[], ModuleType] = library.__wrapped__  # type: ignore[attr-defined]
    with pytest.raises(FfnEdgeError) as raised:
        uncached()
    assert "ffn-edge[serve]" in raised.value.hint
