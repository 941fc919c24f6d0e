"""One frame: cut out, scaled and turned for the network, or labelled for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ffn_edge.media.opencv import opencv

Image = npt.NDArray[np.uint8]  # (H, W, 3)


class Box(NamedTuple):
    """A rectangle of a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int


def crop_resize(
    frame: Image, box: Box, size: int, *, mirror: bool = False, upside_down: bool = False
) -> Image:
    """Cut `box` out of a BGR frame and scale it: uint8 (size, size, 3), RGB.

    Scaling down averages, as PIL's resize does, on which published networks were trained.

    Args:
        frame: uint8 (H, W, 3), BGR.
        box: inside the frame.
        size: of the result, in pixels.
        mirror: swap left and right.
        upside_down: swap top and bottom.
    """
    cv2 = opencv()
    top, left, height, width = box
    image: Image = resize(frame[top : top + height, left : left + width], size, size)
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    if mirror or upside_down:
        image = cv2.flip(image, -1 if mirror and upside_down else int(mirror))
    return image


def resize(image: Image, height: int, width: int) -> Image:
    """Scale a picture: uint8 (height, width, 3).

    Args:
        image: uint8 (H, W, 3).
        height: in pixels.
        width: in pixels.
    """
    cv2 = opencv()
    tall, wide = image.shape[:2]
    shrink = min(tall / height, wide / width)
    # Averaging by a whole factor is several times faster than by a fraction. So do the most of a
    # large reduction that way; the rest, less than 2, is left to bilinear interpolation.
    factor = int(shrink)
    if factor >= 2:
        tall, wide = tall // factor, wide // factor
        image = image[: tall * factor, : wide * factor]
        image = cv2.resize(image, (wide, tall), interpolation=cv2.INTER_AREA)
    if image.shape[:2] != (height, width):
        method = cv2.INTER_AREA if 1 < shrink < 2 else cv2.INTER_LINEAR
        image = cv2.resize(image, (width, height), interpolation=method)
    return image


def prepare_frame(frame: Image, short_side: int, size: int) -> Image:
    """Return what a network sees of a frame at test time: uint8 (size, size, 3), RGB.

    As if the frame were scaled until its short side is `short_side`, and then its centre cut
    out. Evaluation and the runtime both call this, so that they cannot differ.

    Args:
        frame: uint8 (H, W, 3), BGR.
        short_side: at least `size`.
        size: of the result, in pixels.
    """
    height, width = frame.shape[:2]
    side = round(min(height, width) * size / short_side)
    return crop_resize(frame, Box((height - side) // 2, (width - side) // 2, side, side), size)


def draw_label(frame: Image, lines: Sequence[str]) -> Image:
    """Return a copy of a frame with lines of text at its top, on a darkened band.

    A small frame is enlarged by a whole factor, so that the text can be read.

    Args:
        frame: uint8 (H, W, 3), BGR.
        lines: ASCII; the font of OpenCV 4 has no other letters, and shows "?" instead.
    """
    cv2 = opencv()
    factor = max(1, math.ceil(360 / frame.shape[1]))
    size = (frame.shape[1] * factor, frame.shape[0] * factor)
    image: Image = cv2.resize(frame, size, interpolation=cv2.INTER_NEAREST)
    if not lines:
        return image
    scale = image.shape[1] / 640
    line_height = round(24 * scale)
    band = image[: round(line_height * (len(lines) + 0.4))]
    band[:] = band // 3
    for number, line in enumerate(lines, start=1):
        at = (round(8 * scale), line_height * number)
        cv2.putText(
            image,
            line,
            at,
            cv2.FONT_HERSHEY_SIMPLEX,
            0.7 * scale,
            (255, 255, 255),
            max(1, round(1.4 * scale)),
            cv2.LINE_AA,
        )
    return image


def encode_jpeg(image: Image, quality: int) -> bytes:
    """Return a picture as a JPEG file.

    Args:
        image: uint8 (H, W, 3), BGR.
        quality: in 1..100.
    """
    cv2 = opencv()
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(data)
