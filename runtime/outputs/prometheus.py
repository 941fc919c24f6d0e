"""prometheus-client, imported when it is first needed. The only file that imports it."""

from __future__ import annotations

import functools
from types import ModuleType

from ffn_edge.errors import FfnEdgeError


@functools.cache
def prometheus() -> ModuleType:
    """Import prometheus-client.

    Raises:
        FfnEdgeError: it is not installed.
    """
    try:
        import prometheus_client.core
    except ImportError as error:
        raise FfnEdgeError(
            f"metrics need prometheus-client, which cannot be imported here ({error})",
            'pip install "ffn-edge[serve]"',
        ) from error
    return prometheus_client
