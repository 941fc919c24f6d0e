"""The last seconds of a stream on the device: each frame is uploaded once, whatever clips it joins.

Legend: T frames of a clip, H x W pixels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ffn_edge.device.gpu import Device
from ffn_edge.runtime.engines.tensorrt import EngineMemory
from ffn_edge.runtime.stream.clip_buffer import Frames, PlacedClip


class DeviceRing:
    """A ring of frames in host memory, and a copy of it on the device. See `clip_buffer.Ring`.

    A frame waits in host memory until a clip needs it, so that the thread that reads a camera
    needs no access to the device, and frames that no clip uses are never uploaded.
    """

    def __init__(
        self, device: Device, memory: EngineMemory, capacity: int, height: int, width: int
    ) -> None:
        """Allocate, in the thread that will call `gather`; or raise an OutOfMemoryError."""
        self._device = device
        self._memory = memory
        self._host = np.zeros((capacity, height, width, 3), np.uint8)
        self._is_new = np.ones(capacity, bool)  # not on the device yet
        self._size = height * width * 3  # bytes of a frame
        self._ring = device.allocate(capacity * self._size)

    def store(self, row: int, frame: Frames) -> None:
        """Keep a frame, uint8 (H, W, 3). From any thread."""
        self._host[row] = frame
        self._is_new[row] = True

    def gather(self, rows: npt.NDArray[np.int64]) -> PlacedClip:
        """Put T rows, one behind the other, where the engines read a clip.

        New frames are uploaded first; all of it only starts here, and is done when the engine runs.
        """
        device, size = self._device, self._size
        device.synchronize()  # the staging memory is free
        device.start_clock()
        new = [row for row in dict.fromkeys(rows.tolist()) if self._is_new[row]]
        for position, row in enumerate(new):
            # Through page-locked memory of our own: the reader may overwrite the row any time.
            staging = self._memory.staging[position * size : (position + 1) * size]
            np.copyto(staging, self._host[row].reshape(-1))
            device.upload_async(int(self._ring) + row * size, staging)
            self._is_new[row] = False
        for position, row in enumerate(rows.tolist()):
            device.copy_async(
                self._memory.input + position * size, int(self._ring) + row * size, size
            )
        _, height, width, _ = self._host.shape
        return PlacedClip((1, len(rows), height, width, 3))

    def frame(self, row: int) -> Frames:
        """Return a frame. See `clip_buffer.Ring`."""
        frame: Frames = self._host[row]
        return frame

    def close(self) -> None:
        """Give the device memory back."""
        self._device.free(self._ring)
