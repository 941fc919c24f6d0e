"""PyAV, which brings FFmpeg, imported when it is first needed. The only file that imports it."""

from __future__ import annotations

import functools
from types import ModuleType

from ffn_edge.errors import FfnEdgeError


@functools.cache
def pyav() -> ModuleType:
    """Import PyAV, silenced: what is wrong with a file is said once, by a VideoError.

    Raises:
        FfnEdgeError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise FfnEdgeError(
            f"video files need PyAV, which cannot be imported here ({error})",
            'pip install "ffn-edge[video]"; on a Jetson, pip install av.',
        ) from error
    av.logging.set_libav_level(av.logging.PANIC)
    return av
