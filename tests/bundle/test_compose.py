"""Composed weights: the same bits everywhere, and a hash that proves it."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

from ffn_edge.bundle.compose import (
    Array,
    FreshTensors,
    blocks,
    compose,
    composed_sha256,
    composed_shapes,
    modulate,
    vector_name,
)

rng = np.random.default_rng(0)


# A program of its own, so that it can run in other processes, NumPy versions and machines. The
# values need no random generator: their bits must not depend on anything.
_COMPOSES = """
import numpy as np
from ffn_edge.bundle.compose import compose, composed_sha256

def values(shape, step):
    count = int(np.prod(shape))
    whole = np.arange(count, dtype=np.int64) * step % 2003 - 1001
    return (whole.astype(np.float32) / np.float32(317)).reshape(shape)

tensors = {
    "conv.weight": values((37, 29, 3, 3), 7919),
    "frames/4/conv.s_in": values((1, 29, 1, 1), 104729),
    "frames/4/conv.s_out": values((37, 1, 1, 1), 1299709),
    "frames/4/conv.bias": values((37,), 15485863),
    "fc.weight": values((31, 37), 611953).astype(np.float16),
    "frames/4/fc.s_out": values((31, 1), 7919),
}
print(composed_sha256(compose(tensors, ["conv", "fc"], 4)))
half = [("half", weight.astype(np.float16)) for _, weight in compose(tensors, ["conv"], 4)]
print(composed_sha256(half))
"""
_COMPOSED = (
    "7ed4453cc8ff1a28008ba13a6356336627abc641dbef66c7194dc5c8c1767246\n"
    "102a6393f599249d3b57e4373a62e561806b5c54eab5d1d301542fcd761835a6\n"
)


def randoms(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def test_a_weight_is_scaled_by_input_and_then_by_output() -> None:
    weight, s_in, s_out = randoms(4, 3, 2, 2), randoms(1, 3, 1, 1), randoms(4, 1, 1, 1)

    composed = modulate(weight.copy(), s_in, s_out)

    for o in range(4):
        for i in range(3):
            for kernel in np.ndindex(2, 2):
                place = (o, i, *kernel)
                by_input = np.float32(weight[place] * s_in[0, i, 0, 0])
                assert composed[place] == np.float32(by_input * s_out[o, 0, 0, 0])
    # The order is part of the format: the other one rounds otherwise.
    assert not np.array_equal(composed, modulate(modulate(weight.copy(), s_out, None), s_in, None))


@pytest.mark.parametrize("dtype", [np.float16, np.int8])
def test_rounded_weights_are_composed_in_float32(dtype: type) -> None:
    weight, s_out = (40 * randoms(4, 3)).astype(dtype), randoms(4, 1)
    tensors = {"fc.weight": weight, vector_name(4, "fc", "s_out"): s_out}

    ((_, composed),) = compose(tensors, ["fc"], 4)

    assert composed.dtype == np.float32
    assert np.array_equal(composed, weight.astype(np.float32) * s_out)


def test_absent_vectors_are_ones() -> None:
    weight = randoms(4, 3)

    assert np.array_equal(modulate(weight.copy(), None, None), weight)


def test_each_layer_yields_its_weight_and_then_its_bias() -> None:
    tensors = {
        "conv.weight": randoms(4, 3),
        "conv.bias": randoms(4),  # shared; this frame count's own stands before it
        vector_name(4, "conv", "s_in"): randoms(1, 3),
        vector_name(4, "conv", "s_out"): randoms(4, 1),
        vector_name(4, "conv", "bias"): randoms(4),
        "fc.weight": randoms(2, 4),
        "fc.bias": randoms(2),
        "plain.weight": randoms(2, 2),
        "unmodulated": randoms(7),
    }

    four = dict(compose(tensors, ["conv", "fc", "plain"], 4))
    eight = dict(compose(tensors, ["conv", "fc", "plain"], 8))  # without vectors of its own

    assert list(four) == ["conv.weight", "conv.bias", "fc.weight", "fc.bias", "plain.weight"]
    assert np.array_equal(
        four["conv.weight"],
        tensors["conv.weight"] * tensors["frames/4/conv.s_in"] * tensors["frames/4/conv.s_out"],
    )
    assert np.array_equal(four["conv.bias"], tensors["frames/4/conv.bias"])
    assert np.array_equal(four["fc.bias"], tensors["fc.bias"])
    assert np.array_equal(eight["conv.weight"], tensors["conv.weight"])
    assert np.array_equal(eight["conv.bias"], tensors["conv.bias"])


def test_the_hash_of_known_weights_is_known() -> None:
    # A changed hash would disown every bundle that was ever exported.
    known = [
        ("conv.weight", np.arange(6, dtype=np.float32).reshape(2, 3)),
        ("conv.bias", np.asarray([0.5, -1.0], np.float32)),
    ]

    assert composed_sha256(known) == (
        "d677111b2be8ef4ee7f75c9369d8f717dc31b07bf5fd8c51760443add8defbad"
    )


class Fresh(FreshTensors):
    """Tensors that are copied out, and the copies."""

    def __init__(self, tensors: dict[str, Array]) -> None:
        self.tensors = tensors
        self.given: list[Array] = []

    def __getitem__(self, name: str) -> Array:
        self.given.append(self.tensors[name].copy())
        return self.given[-1]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return self.tensors[name].shape

    def float32(self, name: str) -> Array:
        """Return a tensor as float32."""
        return self[name].astype(np.float32, copy=False)


def test_tensors_that_are_held_are_left_as_they_are_and_fresh_ones_are_composed_in_place() -> None:
    tensors: dict[str, Array] = {
        "conv.weight": randoms(4, 3),
        "half.weight": randoms(4, 3).astype(np.float16),
        "conv.bias": randoms(4),
        **{
            vector_name(4, layer, vector): randoms(*shape)
            for layer in ("conv", "half")
            for vector, shape in (("s_in", (1, 3)), ("s_out", (4, 1)))
        },
    }
    before = {name: array.copy() for name, array in tensors.items()}
    fresh = Fresh(tensors)

    held = dict(compose(tensors, ["conv", "half"], 4))
    in_place = dict(compose(fresh, ["conv", "half"], 4))

    assert composed_sha256(in_place.items()) == composed_sha256(held.items())
    assert all(np.array_equal(tensors[name], before[name]) for name in tensors)
    assert any(in_place["conv.weight"] is given for given in fresh.given)
    assert composed_shapes(fresh, ["conv", "half"], 4) == {n: a.shape for n, a in held.items()}


@pytest.mark.parametrize(
    "other",
    [
        ("fc.weight", np.zeros((2, 3), np.float32)),
        ("conv.weight", np.zeros((3, 2), np.float32)),
        ("conv.weight", np.zeros((2, 3), np.float16)),
        ("conv.weight", np.full((2, 3), -0.0, np.float32)),
    ],
    ids=["name", "shape", "type", "one bit"],
)
def test_the_hash_tells_apart(other: tuple[str, np.ndarray]) -> None:
    reference = ("conv.weight", np.zeros((2, 3), np.float32))

    assert composed_sha256([reference]) != composed_sha256([other])


def test_the_hash_does_not_depend_on_the_layout_in_memory() -> None:
    weight = randoms(4, 3)

    assert composed_sha256([("w", weight)]) == composed_sha256([("w", np.asfortranarray(weight))])


@pytest.mark.parametrize(
    "disabled", ["", "X86_V3 X86_V4 AVX512_ICL AVX512_SPR", "AVX2 FMA3 F16C AVX512F AVX512_SKX"]
)
def test_composition_gives_the_same_bits_in_every_process(disabled: str) -> None:
    # NumPy picks its kernels by the processor; without its newest instructions it is another one.
    # (It warns of names that its version does not know.)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _COMPOSES],
        capture_output=True,
        text=True,
        env={**os.environ, "NPY_DISABLE_CPU_FEATURES": disabled},
    )
    assert done.stdout == _COMPOSED, done.stderr


def test_composing_a_large_layer_never_holds_it_twice() -> None:
    weight, s_in, s_out = randoms(512, 512, 3), randoms(1, 512, 1), randoms(512, 1, 1)
    tracemalloc.start()
    composed = modulate(weight, s_in, s_out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 1.05 * composed.nbytes


def test_the_shapes_are_known_without_composing() -> None:
    tensors = {
        "conv.weight": randoms(4, 3, 1, 1),
        vector_name(4, "conv", "bias"): randoms(4),
        "fc.weight": randoms(2, 4),
        "fc.bias": randoms(2),
        "plain.weight": randoms(2, 2),
    }
    layers = ["conv", "fc", "plain"]
    composed = {name: array.shape for name, array in compose(tensors, layers, 4)}

    shapes = composed_shapes(tensors, layers, 4)

    assert list(shapes.items()) == list(composed.items())


@pytest.mark.parametrize("size", [1, 5, 24, 100])
def test_blocks_are_all_values_in_order(size: int) -> None:
    array = randoms(4, 3, 2)
    pieces = list(blocks(array, size))
    assert all(0 < piece.size <= size for piece in pieces)
    assert np.array_equal(np.concatenate(pieces), array.reshape(-1))
