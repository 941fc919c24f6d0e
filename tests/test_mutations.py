"""What damages files in `benchmarks/fuzz.py`: the same for a seed, and damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from benchmarks.mutations import (
    HOSTILE,
    mutate_bytes,
    mutate_graph,
    mutate_header,
    mutate_json,
    seal,
    to_text,
)
from ffn_edge.bundle.bundle import MANIFEST, WEIGHTS, Bundle
from ffn_edge.errors import BundleError

Mutate = Callable[[bytes, Random], tuple[bytes, str]]


def in_manifest(data: bytes, rng: Random) -> tuple[bytes, str]:
    said: list[str] = []
    text = mutate_json(data.decode(), rng, said.append)
    return text.encode("utf-8", "surrogatepass"), said[0]


@pytest.mark.parametrize(
    ("mutate", "name"),
    [
        (in_manifest, MANIFEST),
        (mutate_header, WEIGHTS),
        (mutate_bytes, WEIGHTS),
        (lambda data, rng: mutate_graph(data, rng, []), "graph_4.onnx"),
    ],
)
def test_a_seed_says_what_is_damaged(mutate: Mutate, name: str, exported: Bundle) -> None:
    whole = (exported.path / name).read_bytes()
    damaged = [mutate(whole, Random(seed)) for seed in range(200)]
    assert damaged == [mutate(whole, Random(seed)) for seed in range(200)]
    assert len({content for content, _ in damaged}) > 100
    assert all(said for _, said in damaged)


def test_a_tree_with_every_hostile_value_is_written_as_text() -> None:
    for value in HOSTILE:
        assert to_text({"a": [1, value]}).startswith('{"a": [1, ')


def test_a_sealed_bundle_loads_as_if_nothing_had_been_altered(
    exported: Bundle, bundle_copy: Path
) -> None:
    fields = json.loads((bundle_copy / MANIFEST).read_text())
    fields["files"][WEIGHTS]["sha256"] = "0" * 64
    (bundle_copy / MANIFEST).write_text(json.dumps(fields))
    with pytest.raises(BundleError, match="sha256"):
        Bundle.load(bundle_copy)
    seal(bundle_copy)
    assert Bundle.load(bundle_copy).manifest == exported.manifest
