"""OpenCV, imported when it is first needed, so that a machine without it can import the rest.

The only file that imports it.
"""

from __future__ import annotations

import functools
import os
from types import ModuleType

from ffn_edge.device.cores import usable_processors
from ffn_edge.errors import FfnEdgeError


@functools.cache
def opencv() -> ModuleType:
    """Import OpenCV, silenced: what is wrong with a file is said once, by a VideoError.

    Raises:
        FfnEdgeError: OpenCV is not installed.
    """
    # FFmpeg's level is read when the first file is opened; -8 is "quiet".
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    # A few kB can be a picture of gigabytes.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 26))
    try:
        import cv2
    except ImportError as error:
        raise FfnEdgeError(
            f"videos need OpenCV, which cannot be imported here ({error})",
            'pip install "ffn-edge[video]"; on a server without libGL, pip install '
            "opencv-python-headless; on a Jetson, use the OpenCV that comes with JetPack.",
        ) from error
    if hasattr(cv2, "setLogLevel"):
        cv2.setLogLevel(0)  # OpenCV 4; 0 is "silent"
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # OpenCV 5
    if usable_processors() < cv2.getNumThreads():  # OpenCV does not know of every quota
        cv2.setNumThreads(usable_processors())
    return cv2


def use_one_thread() -> None:
    """Keep OpenCV to the calling thread, in a process that is one of several workers.

    0 and not 1: 1 would stop OpenCV's threads first, and a forked process has none to wait for.
    """
    opencv().setNumThreads(0)


def build_information() -> str:
    """Return what OpenCV says of how it was built: its version, what it reads videos with.

    Raises:
        FfnEdgeError: OpenCV is not installed.
    """
    return str(opencv().getBuildInformation())
