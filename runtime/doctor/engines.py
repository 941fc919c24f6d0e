"""What `ffn-edge doctor` says of built engines, and of a bundle."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

from ffn_edge.bundle.bundle import Bundle
from ffn_edge.device.plan_cache import (
    REFITS,
    Plan,
    PlanCache,
    PlanKey,
    Sidecar,
    buildable,
    misfits,
    plan_key,
    read_sidecar,
)
from ffn_edge.device.tensorrt_api import PRODUCTS
from ffn_edge.errors import counted
from ffn_edge.runtime.doctor.host import Host, existing
from ffn_edge.runtime.doctor.report import Failure, Line, attempt
from ffn_edge.runtime.engines.engine import EngineOptions, OpenEngines


def open_bundle(host: Host, bundle: Bundle, cache: PlanCache) -> OpenEngines:
    """Open the engines of a bundle as `ffn-edge run` does, and close them again.

    Raises:
        FfnEdgeError: `ffn-edge run` would not work.
    """
    bundle.manifest.input.check_streamable()
    with host.open_engines(bundle, EngineOptions(cache=cache.folder)) as engines:
        return engines


def bundle_lines(
    path: Path, bundle: Bundle | Failure, opened: OpenEngines | Failure | None
) -> Iterator[Line]:
    """Report a bundle, and what opens its engines."""
    if isinstance(bundle, Failure):
        yield Line("bundle", bundle.message, "problem", bundle.remedy)
        return
    manifest = bundle.manifest
    yield Line("bundle", f"{path}, whole")
    yield Line("architecture", f"{manifest.architecture}, {len(manifest.classes)} classes")
    yield Line("frame counts", ", ".join(map(str, manifest.frame_counts)))
    if isinstance(opened, Failure):
        yield Line("engines", opened.message, "problem", opened.remedy)
    elif opened is not None:
        yield Line("engines", opened.in_words)
        for warning in opened.warnings:
            yield Line("engines", warning, "note")


def plan_lines(host: Host, cache: PlanCache, bundle: Bundle | None) -> Iterator[Line]:
    """Report the cache of TensorRT's engines, and those of a bundle that are not in it."""
    sidecars = list(cache.sidecars())
    count = counted(len(sidecars), "engine")
    yield Line("cache", f"{cache.folder}: {count}")
    there = existing(cache.folder)
    if host.ready and not host.may(there, os.W_OK | os.X_OK):
        yield Line(
            "cache",
            f"this user may not write to {there}: `ffn-edge build` would fail",
            "problem",
            "name another folder with --cache or FFN_EDGE_CACHE.",
        )
    wanted = None if bundle is None else _wanted(host, bundle)
    for sidecar in sidecars:
        plan = attempt(functools.partial(cache.find, sidecar.key))
        if plan is not None:  # else it was renamed, and is a stray
            yield _plan_line(host, cache, sidecar, plan, wanted)
    yield from _stray_lines(cache, {sidecar.key.name for sidecar in sidecars})
    if bundle is None or wanted is None:
        return
    for frames, served in wanted.items():
        keys = [key for key in served if not key.step]  # those for streams nobody has to have
        # A Failure is true as well: what is damaged has had its line.
        if not any(attempt(functools.partial(cache.find, key)) for key in keys):
            yield _missing_line(host, cache, bundle, frames, keys)


def _wanted(host: Host, bundle: Bundle) -> dict[int, list[PlanKey]]:
    """Return what would serve a bundle here: for each frame count, the one preferred first."""
    if isinstance(host.gpu, Failure) or not host.ready:
        return {}
    return {
        frames: [
            plan_key(api, host.gpu, bundle, frames, precision, refit, host.root, step=step)
            for api in host.ready.values()
            for step in (False, True)
            for precision in buildable(bundle, frames, step=step)
            for refit in REFITS
        ]
        for frames in bundle.manifest.frame_counts
    }


def _plan_line(
    host: Host,
    cache: PlanCache,
    sidecar: Sidecar,
    plan: Plan | Failure,
    wanted: dict[int, list[PlanKey]] | None,
) -> Line:
    key = sidecar.key
    kind = " of a stream" if key.step else ""
    name = f"{key.architecture}, {key.frames} frames{kind}, {key.precision}"
    product = PRODUCTS.get(key.target, key.target)
    gpu = "any GPU" if key.sm == "any" else f"{key.gpu} (SM {key.sm})"
    found = f"{product} {key.tensorrt_version}, {gpu}, {sidecar.plan.bytes / 1e6:.1f} MB"
    if isinstance(plan, Failure):
        return Line(name, f"{found}; {plan.message}", "problem", plan.remedy)
    reason = _misfit(host, key)
    if reason:
        if key.sm == "any":  # it was perhaps built here for another machine
            remedy = "for a machine with an RTX GPU: copy the folder there."
        else:
            remedy = f"of no use here: rm {cache.folder / key.name}.*"
        return Line(name, f"{found}; does not fit: {reason}", "note", remedy)
    other = sidecar.built_in_another_mode(host.power_mode)
    if other:
        remedy = "ffn-edge build BUNDLE tunes it for this one."
        return Line(name, f"{found}; {other}", "note", remedy)
    if wanted is None:
        return Line(name, f"{found}; fits this machine")
    if key in wanted.get(key.frames, ()):
        return Line(name, f"{found}; fits this machine and the bundle")
    return Line(name, f"{found}; fits this machine, but is of another bundle")


def _misfit(host: Host, key: PlanKey) -> str:
    """Say why an engine cannot be used on this machine; nothing if it can."""
    api = host.ready.get(key.target)
    if api is None or isinstance(host.gpu, Failure):
        return f"{PRODUCTS.get(key.target, key.target)} does not work here"
    return " and ".join(misfits(key, key.on(api, host.gpu, host.root)))


def _stray_lines(cache: PlanCache, known: set[str]) -> Iterator[Line]:
    """Report what is in the cache but has no sidecar that can be read."""
    stems = {path.stem for ending in ("plan", "json") for path in cache.folder.glob(f"*.{ending}")}
    for stem in sorted(stems - known):
        sidecar = attempt(functools.partial(read_sidecar, cache.folder / f"{stem}.json"))
        message = sidecar.message if isinstance(sidecar, Failure) else "it was renamed"
        remedy = f"build it again with `ffn-edge build`, or rm {cache.folder / stem}.*"
        yield Line(stem, message, "problem", remedy)


def _missing_line(
    host: Host, cache: PlanCache, bundle: Bundle, frames: int, keys: list[PlanKey]
) -> Line:
    """Say why no engine serves a frame count of a bundle here, and how to build one."""
    target = keys[0].target
    option = "" if target == "tensorrt" else f" --target {target}"
    return Line(
        f"{frames} frames",
        cache.nearest([key for key in keys if key.target == target]),
        host.without_tensorrt,
        f"build on this machine: ffn-edge build {bundle.path}{option}",
    )
