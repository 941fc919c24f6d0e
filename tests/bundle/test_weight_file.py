"""The tensors of a bundle are read as they were written, or an error says why not."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ffn_edge.bundle.bundle import (
    WEIGHTS,
    Bundle,
)
from ffn_edge.bundle.compose import Array
from ffn_edge.bundle.weight_file import WeightFile, read_header
from ffn_edge.errors import BundleError


def header(content: object) -> bytes:
    text = json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text


def test_tensors_are_those_of_the_safetensors_library(exported: Bundle) -> None:
    expected = load_file(exported.path / WEIGHTS)

    tensors = exported.tensors()

    assert len(tensors) == len(expected)
    for name, array in expected.items():
        assert tensors[name].dtype == array.dtype
        assert np.array_equal(tensors[name], array)


def test_the_header_tells_where_the_bytes_of_each_tensor_are(exported: Bundle) -> None:
    content = (exported.path / WEIGHTS).read_bytes()

    for name, entry in read_header(exported.path / WEIGHTS).items():
        assert entry.file == WEIGHTS
        raw = content[entry.offset : entry.offset + entry.length]
        assert np.frombuffer(raw, np.float32).reshape(entry.shape).tolist() == (
            exported.tensors()[name].tolist()
        )


def test_vectors_in_a_file_of_their_own_go_before_those_in_the_weight_file(tmp_path: Path) -> None:
    def ones(*names: str) -> dict[str, Array]:
        return {name: np.ones(2, np.float32) for name in names}

    save_file(
        ones("a.weight", "frames/4/a.s_in", "frames/4/a.bias", "frames/40/a.s_in"), tmp_path / "all"
    )
    save_file({"frames/4/a.s_in": np.zeros(2, np.float32)}, tmp_path / "own")

    tensors = WeightFile(tmp_path / "all", {4: tmp_path / "own"})

    # A vector that the frame count does not have any more must not come from the weight file.
    assert set(tensors) == {"a.weight", "frames/4/a.s_in", "frames/40/a.s_in"}
    assert [float(tensors[name][0]) for name in tensors] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("name", ["a.weight", "frames/40/a.s_in", "frames/2/known_answer.logits"])
def test_a_vector_file_with_tensors_of_others_is_refused(name: str, tmp_path: Path) -> None:
    save_file({"a.weight": np.ones(2, np.float32)}, tmp_path / "all")
    own = {"frames/4/a.s_in": np.ones(2, np.float32), name: np.zeros(2, np.float32)}
    save_file(own, tmp_path / "own")

    with pytest.raises(BundleError, match=f"own holds {name}, which is not of 4 frames"):
        WeightFile(tmp_path / "all", {4: tmp_path / "own"})


def test_a_weight_file_that_is_cut_short_while_in_use_is_an_error(bundle_copy: Path) -> None:
    tensors = Bundle.load(bundle_copy).tensors()
    os.truncate(bundle_copy / WEIGHTS, 100)

    for read in (tensors.__getitem__, tensors.float32):
        with pytest.raises(BundleError, match="altered while in use") as caught:
            read(list(tensors)[-1])
        assert "rename" in caught.value.hint


def test_a_weight_file_that_is_written_over_while_in_use_is_an_error(bundle_copy: Path) -> None:
    tensors = Bundle.load(bundle_copy).tensors()
    path = bundle_copy / WEIGHTS
    with open(path, "r+b") as file:  # as many bytes, in place
        file.write(bytes(path.stat().st_size))
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))  # where the clock of the disk is coarse

    with pytest.raises(BundleError, match="altered while in use"):
        tensors[next(iter(tensors))]


def test_a_weight_file_that_is_replaced_by_renaming_is_read_as_it_was(bundle_copy: Path) -> None:
    tensors = Bundle.load(bundle_copy).tensors()
    before = {name: tensors[name] for name in tensors}
    (bundle_copy / "new").write_bytes(b"another export")
    (bundle_copy / "new").replace(bundle_copy / WEIGHTS)

    assert all(np.array_equal(tensors[name], before[name]) for name in before)


def test_the_weights_that_were_checked_are_those_that_are_read(bundle_copy: Path) -> None:
    bundle = Bundle.load(bundle_copy)
    before = bundle.tensors()
    name = next(iter(before))
    other = bytearray((bundle_copy / WEIGHTS).read_bytes())
    other[before.entries[name].offset] ^= 1
    (bundle_copy / "new").write_bytes(other)
    (bundle_copy / "new").replace(bundle_copy / WEIGHTS)  # after it was hashed, before it is used

    assert np.array_equal(bundle.tensors()[name], before[name])


def test_tensors_belong_to_who_asked_for_them(exported: Bundle) -> None:
    tensors = exported.tensors()
    name = next(iter(tensors))
    first = tensors[name]
    first[...] = 7

    assert not np.array_equal(tensors[name], first)
    assert tensors.shape(name) == first.shape


@pytest.mark.parametrize("dtype", [np.float16, np.int8])
def test_other_types_are_read_as_float32_piece_by_piece(dtype: type, tmp_path: Path) -> None:
    stored = np.random.default_rng(0).uniform(-127, 127, (1200, 1100)).astype(dtype)
    save_file({"a": stored, "whole": np.arange(5)}, tmp_path / "all")
    tensors = WeightFile(tmp_path / "all")

    tracemalloc.start()
    read = tensors.float32("a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert np.array_equal(read, stored.astype(np.float32))
    assert peak < 1.2 * read.nbytes
    assert tensors.float32("whole").tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x01",
        (1 << 40).to_bytes(8, "little"),
        (5).to_bytes(8, "little") + b"hello",
        header(3),
        header([]),
        header({"w": {"dtype": "F32", "shape": [4]}}),
        header({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0]}}),
        header({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}) + b"short",
        header({"w": {"dtype": "F32", "shape": [4], "data_offsets": [-8, 8]}}) + bytes(16),
        header({"w": {"dtype": "F32", "shape": [4], "data_offsets": [8, 0]}}) + bytes(16),
        header({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0.0, 16.0]}}) + bytes(16),
        header({"w": {"dtype": "F32", "shape": [40], "data_offsets": [0, 16]}}) + bytes(16),
        header({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 16]}}) + bytes(16),
        header({"w": {"dtype": "F32", "shape": [-2, -2], "data_offsets": [0, 16]}}) + bytes(16),
        header({"w": {"dtype": "I8", "shape": [4], "data_offsets": [0, 16]}}) + bytes(16),
        header(
            {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in ("v", "w")}
        )
        + bytes(16),
        b"\xff\xff\x00\x00\x00\x00\x00\x00" + b"[" * 70000,
    ],
)
def test_a_weight_file_that_is_not_whole_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / WEIGHTS
    file.write_bytes(content)

    with pytest.raises(BundleError, match="is not a whole safetensors file"):
        read_header(file)


def test_a_tensor_of_a_type_that_no_bundle_holds_is_refused(tmp_path: Path) -> None:
    content = header({"w": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}) + bytes(8)
    (tmp_path / WEIGHTS).write_bytes(content)

    with pytest.raises(BundleError, match="BF16"):
        WeightFile(tmp_path / WEIGHTS)["w"]


def test_an_empty_tensor_may_lie_where_another_begins(tmp_path: Path) -> None:
    entries = {
        "full": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "empty": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]},
    }
    (tmp_path / WEIGHTS).write_bytes(header(entries) + bytes(8))
    assert set(read_header(tmp_path / WEIGHTS)) == {"full", "empty"}
