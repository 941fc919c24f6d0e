"""Bundles with rounded weights, shared by the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from ffn_edge.bundle.bundle import Bundle
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.network.checkpoint import Checkpoint, load_checkpoint


@pytest.fixture(scope="session")
def checkpoint(checkpoint_file: Path) -> Checkpoint:
    """The checkpoint that the bundles were exported from. Not to be changed."""
    return load_checkpoint(checkpoint_file)


@pytest.fixture(scope="session")
def half_exported(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The 4-frame sub-network with float16 weights, for batches of 2. Not to be changed."""
    return export_bundle(
        checkpoint.network,
        checkpoint.card,
        tmp_path_factory.mktemp("half") / "bundle",
        frame_counts=(4,),
        weights_dtype="fp16",
        batch=2,
    )


@pytest.fixture(scope="session")
def int8_exported(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Both sub-networks with int8 weights. Not to be changed."""
    return export_bundle(
        checkpoint.network,
        checkpoint.card,
        tmp_path_factory.mktemp("int8") / "bundle",
        weights_dtype="int8",
    )
