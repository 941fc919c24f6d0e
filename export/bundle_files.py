"""Files that are added to a bundle in use: new names, the manifest last, the replaced removed.

A file that a manifest names is never written over, so an interruption at any moment leaves the old
bundle or the new one.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors import SafetensorError

from ffn_edge.bundle.bundle import (
    MANIFEST,
    WEIGHTS,
    Bundle,
    Manifest,
    Quantized,
    SubNetwork,
    file_record,
    read_manifest,
)
from ffn_edge.bundle.signature import SIGNATURE
from ffn_edge.errors import BundleError, ExportError, reason_of
from ffn_edge.files.atomic import atomic_file, locked, write_text

_log = logging.getLogger(__name__)

_OURS = re.compile(r"(frames_[\d-]+\.safetensors|(graph|step)_[\d-]+(\.int8(-\d+)?)?\.onnx)")


def free_name(name: str, ending: str, taken: Collection[str]) -> str:
    """Return the name of a file that is not taken: graph_8.onnx, graph_8-2.onnx, and so on."""
    numbered = (f"{name}-{number}{ending}" for number in itertools.count(2))
    return next(each for each in itertools.chain([name + ending], numbered) if each not in taken)


def with_sub_networks(
    manifest: Manifest, changed: dict[int, SubNetwork], written: Mapping[str, Path]
) -> Manifest:
    """Return the manifest with sub-networks added or replaced, and without files of no use."""
    subs = dict(sorted((manifest.sub_networks | changed).items()))
    used = {WEIGHTS, *(sub.vectors for sub in subs.values())}
    used.update(graph for sub in subs.values() for graph in sub.all_graphs)
    files = manifest.files | {name: file_record(file) for name, file in written.items()}
    return dataclasses.replace(
        manifest,
        frame_counts=tuple(subs),
        sub_networks=subs,
        files={name: record for name, record in sorted(files.items()) if name in used},
    )


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Write files into a bundle's folder; at the end, however it ends, remove those of no use.

    An interruption may come just after the manifest is in place.

    Raises:
        ExportError: it cannot be written. The bundle is then as it was.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ExportError(
            f"could not write into {folder}: {reason_of(error)}",
            "free space on the disk; the bundle is as it was.",
        ) from error
    finally:
        _remove_unused(folder)


def replace_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a bundle that changed. Its signature, if it has one, goes."""
    write_text(folder / MANIFEST, manifest.to_json())
    if (folder / SIGNATURE).exists():
        (folder / SIGNATURE).unlink()
        _log.warning("the signature was of the bundle before, and goes: `ffn-edge sign` it again")


def _remove_unused(folder: Path) -> None:
    """Remove vectors and graphs that the manifest does not name: replaced, or never put to use.

    What cannot be removed goes next time.
    """
    with suppress(OSError, BundleError):
        in_use = read_manifest(folder).files
        for file in folder.iterdir():
            if _OURS.fullmatch(file.name) and file.name not in in_use:
                file.unlink()


def add_int8(
    bundle: Bundle,
    found: Mapping[int, Quantized],
    graphs: Mapping[int, Sequence[bytes]] = MappingProxyType({}),
) -> Bundle:
    """Write what was found of INT8 into a bundle's folder, and return the bundle that says so.

    Args:
        bundle: as it was loaded.
        found: by frame count; the names of new graphs are filled in.
        graphs: new ones, ONNX models by frame count: that of a clip, and of a causal network that
            of a step.

    Raises:
        BundleError: the bundle changed since it was loaded.
        ExportError: the disk is full. The bundle is then as it was.
    """
    folder, manifest = bundle.path, bundle.manifest
    with locked(folder):
        if read_manifest(folder) != manifest:
            raise BundleError(
                f"the bundle in {folder} changed meanwhile", "run `ffn-edge quantize` again."
            )
        subs: dict[int, SubNetwork] = {}
        written: dict[str, Path] = {}
        with changing(folder):
            for frames, int8 in found.items():
                fields = zip(("graph", "step"), graphs.get(frames, ()), strict=False)
                for field, graph in fields:
                    name = free_name(f"{field}_{frames}.int8", ".onnx", manifest.files)
                    written[name] = folder / name
                    with atomic_file(written[name]) as temporary:
                        temporary.write_bytes(graph)
                    named: dict[str, Any] = {field: name}
                    int8 = dataclasses.replace(int8, **named)
                subs[frames] = dataclasses.replace(manifest.sub_networks[frames], int8=int8)
            after = with_sub_networks(manifest, subs, written)
            Bundle(folder, after, "").check()
            replace_manifest(folder, after)
    return Bundle.load(folder)
