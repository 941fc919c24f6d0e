"""What this machine can do, and whether `ffn-edge run` would work on it.

    facts ─ groups of lines ─┐
    bundle ─ engines opened ─┴─ report with a verdict

Nothing of a machine makes it raise: what cannot be read or imported is a line of the report.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from pathlib import Path

from ffn_edge.bundle.bundle import Bundle
from ffn_edge.device.plan_cache import PlanCache
from ffn_edge.device.tensorrt_api import MODULES, PRODUCTS
from ffn_edge.runtime.doctor import engines, hardware, software
from ffn_edge.runtime.doctor.host import Host
from ffn_edge.runtime.doctor.report import Failure, Group, Line, Report, attempt
from ffn_edge.runtime.engines.engine import OpenEngines


def examine(
    path: Path | None = None, *, cache: Path | None = None, host: Host | None = None
) -> Report:
    """Look at a machine and, if one is named, at a bundle on it.

    Args:
        path: a bundle, whose engines are opened; None is none in particular.
        cache: where TensorRT's engines are kept; None is the default folder.
        host: the machine; None is this one.
    """
    host = host or Host()
    plans = PlanCache(cache)
    folders = {"disk, engines": plans.folder}
    groups = [
        _group("Python", software.python_lines(host)),
        _group("Packages", software.package_lines(host)),
        _group("Board", itertools.chain(hardware.board_lines(host), hardware.int8_lines(host))),
        _group("GPU", software.gpu_lines(host)),
        _group("Video", itertools.chain(software.opencv_lines(host), hardware.camera_lines(host))),
        _group("Sensors", hardware.sensor_lines(host)),
    ]
    bundle: Bundle | Failure | None = None
    opened: OpenEngines | Failure | None = None
    if path is not None:
        folders["disk, bundle"] = path
        bundle = attempt(lambda: Bundle.load(path))
        opened = (
            bundle
            if isinstance(bundle, Failure)
            else attempt(functools.partial(engines.open_bundle, host, bundle, plans))
        )
    whole = bundle if isinstance(bundle, Bundle) else None
    groups += [
        _group("Memory and disk", hardware.resource_lines(host, folders)),
        _group("Engines", engines.plan_lines(host, plans, whole)),
    ]
    if path is not None and bundle is not None and opened is not None:
        groups.append(_group("Bundle", engines.bundle_lines(path, bundle, opened)))
    backend, reason = _of_any(host) if opened is None else _of_bundle(host, opened)
    command = "ffn-edge run" if path is None else f"ffn-edge run {path}"
    works = "would work" if backend else "would not work"
    return Report(
        groups=tuple(groups), backend=backend, verdict=f"`{command}` {works} here: {reason}."
    )


def _group(name: str, lines: Iterable[Line]) -> Group:
    """Collect the lines of a group; a check that fails itself is its last line."""
    collected: list[Line] = []
    failed = attempt(lambda: collected.extend(lines))
    if isinstance(failed, Failure):
        collected.append(Line(name, f"this check failed: {failed.message}", "problem"))
    return Group(name, tuple(collected))


def _of_bundle(host: Host, opened: OpenEngines | Failure) -> tuple[str | None, str]:
    """Return what would run a bundle, and why; None and why not."""
    if isinstance(opened, Failure):
        return None, opened.message
    if isinstance(host.opencv, Failure):
        return None, host.opencv.message
    return opened.backend.name, opened.in_words


def _of_any(host: Host) -> tuple[str | None, str]:
    """Return what would run some bundle, and why; None and why not."""
    if isinstance(host.opencv, Failure):
        return None, host.opencv.message
    for target, api in host.ready.items():
        assert not isinstance(host.gpu, Failure)
        return target, (
            f"{PRODUCTS[target]} {api.version} on {host.gpu.name}, once `ffn-edge build` has "
            "built a bundle's engines"
        )
    why = _why_not_tensorrt(host)
    if isinstance(host.onnxruntime, Failure):
        return None, f"{host.onnxruntime.message}, and {why}"
    return "onnxruntime", f"ONNX Runtime {host.onnxruntime} on the CPU, as {why}"


def _why_not_tensorrt(host: Host) -> str:
    for target, api in host.tensorrt.items():
        if not isinstance(api, Failure):
            assert isinstance(host.gpu, Failure)  # else it would be used
            return f"{PRODUCTS[target]} cannot reach a GPU: {host.gpu.message}"
        if host.has_module(MODULES[target]):
            return api.message
    return "TensorRT is not installed"
