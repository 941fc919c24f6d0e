"""The known-answer test: two fixed clips, and the logits that every engine must give for them.

Export stores the logits beside the vectors of each frame count; an engine that was built for
other weights, another device or another version than it claims gives itself away at start-up.

Legend: N clips of T frames, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from ffn_edge.bundle.bundle import InputContract, Manifest, Precision
from ffn_edge.bundle.compose import Array, vector_name
from ffn_edge.errors import EngineError

# Largest |Δlogit| / |logit| of a clip against the stored answer, by the precision of the engine.
# float32: TensorRT multiplies in TF32 where the GPU can (10 bits of mantissa, 1e-3) and adds up
# through some fifty layers. float16: the same mantissa, and activations are rounded too.
TOLERANCES = {"fp32": 2e-2, "fp16": 5e-2}
# INT8: an engine elsewhere rounds otherwise, by as much as ours is off. What is not quantised is
# float16, which is off by as much as that at least; and beyond half of the largest logit, an answer
# would no longer tell a wrong engine from a right one.
_INT8_DEVIATIONS = 2
_MOST_INT8 = 0.5


def tolerance(manifest: Manifest, frames: int, precision: Precision) -> float:
    """Return how far the logits of an engine may be off, as `fault` takes it."""
    int8 = manifest.sub_networks[frames].int8
    if precision == "int8" and int8 is not None:
        return min(max(TOLERANCES["fp16"], _INT8_DEVIATIONS * int8.deviation), _MOST_INT8)
    return TOLERANCES[precision]


def known_clips(contract: InputContract, frames: int) -> npt.NDArray[np.uint8]:
    """Return the two clips: uint8 (2, N, T, H, W, 3), RGB. Integers only: the same everywhere.

    Waves of two directions and speeds, so that a network that looks at motion sees some.
    """
    t, y, x, c = np.ogrid[:frames, : contract.height, : contract.width, :3]
    waves = (
        5 * x + 2 * y + 23 * t + 70 * c,
        3 * y - 4 * x - 31 * t + 40 * c + (x * y) // 16,
    )
    # A triangle wave has no edge at which rounding could matter.
    clips = np.stack([np.abs(wave % 510 - 255) for wave in waves]).astype(np.uint8)
    shape = (2, contract.batch, frames, contract.height, contract.width, 3)
    return np.broadcast_to(clips[:, None], shape).copy()


def mean_of_steps(
    step: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]], clips: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    """Return what a stream's steps say of its first T frames: of a causal network, as of a clip.

    Args:
        step: returns the logits (N, classes) of the next frame (N, 1, H, W, 3); it is at the start.
        clips: uint8 (N, T, H, W, 3).
    """
    frames = (np.ascontiguousarray(clips[:, t : t + 1]) for t in range(clips.shape[1]))
    mean: npt.NDArray[np.float32] = np.mean([step(frame) for frame in frames], axis=0)
    return mean


def answer_name(frames: int) -> str:
    """Return the name in the weight file of the logits for one frame count."""
    return vector_name(frames, "known_answer", "logits")


def known_logits(tensors: Mapping[str, Array], frames: int) -> npt.NDArray[np.float32]:
    """Return the stored logits: float32 (2, N, classes).

    Raises:
        EngineError: the bundle has none.
    """
    if answer_name(frames) not in tensors:
        raise EngineError(
            f"the bundle holds no known answer for {frames} frames",
            "it was exported by an older release: export it again with `ffn-edge export`.",
        )
    return tensors[answer_name(frames)].astype(np.float32)


def fault(
    logits: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], tolerance: float
) -> str | None:
    """Say what is wrong with an engine's answers; None if nothing is.

    Args:
        logits: float32 (2, N, classes), what the engine gave for `known_clips`.
        expected: the same, stored.
        tolerance: of |Δlogit| relative to the largest |logit| of the clip.
    """
    if not np.isfinite(logits).all():
        return "its output is not finite"
    if np.array_equal(logits[0], logits[1]) and not np.array_equal(expected[0], expected[1]):
        return "its output does not change with the input"
    relative = deviation(logits, expected)
    if relative > tolerance:
        return f"its logits are off by {relative:.2g} of the largest; {tolerance:g} is rounding"
    return None


def deviation(logits: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    """Return the largest |Δlogit| of a clip, relative to its largest |logit|. As `fault` takes."""
    largest = np.maximum(np.abs(expected).max(axis=-1), np.finfo(np.float32).tiny)
    return float((np.abs(logits - expected).max(axis=-1) / largest).max())
