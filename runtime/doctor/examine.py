"""What this machine can do, and whether `ffn-edge run` would work on it.

    facts ─ groups of lines ─┐
    bundle ─ engines opened ─┴─ report with a verdict

Nothing of a machine makes it raise: what cannot be read or imported is a line of the report.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from ffn_edge.bundle.bundle import Bundle
from ffn_edge.device.plan_cache import PlanCache
from ffn_edge.device.tensorrt_api import MODULES, PRODUCTS
from ffn_edge.runtime.doctor.engines import (
    Opened,
    bundle_lines,
    open_bundle,
    plan_lines,
)
from ffn_edge.runtime.doctor.hardware import (
    board_lines,
    camera_lines,
    resource_lines,
    sensor_lines,
)
from ffn_edge.runtime.doctor.probes import Facts, Probes, gather
from ffn_edge.runtime.doctor.report import Failure, Report, attempt, group
from ffn_edge.runtime.doctor.software import (
    gpu_lines,
    opencv_lines,
    package_lines,
    python_lines,
)

_THIS_MACHINE = Probes()


def examine(
    path: Path | None = None,
    *,
    cache: Path | None = None,
    root: Path = Path("/"),
    probes: Probes = _THIS_MACHINE,
) -> Report:
    """Look at a machine and, if one is named, at a bundle on it.

    Args:
        path: a bundle, whose engines are opened; None is none in particular.
        cache: where TensorRT's engines are kept; None is the default folder.
        root: where the machine's file system begins.
        probes: what is asked other than by reading files.
    """
    facts = gather(root, probes)
    plans = PlanCache(cache)
    folders = {"disk, engines": plans.folder}
    groups = [
        group("Python", python_lines(facts)),
        group("Packages", package_lines(facts)),
        group("Board", board_lines(facts)),
        group("GPU", gpu_lines(facts)),
        group("Video", itertools.chain(opencv_lines(facts), camera_lines(facts))),
        group("Sensors", sensor_lines(facts)),
    ]
    bundle = opened = None
    if path is not None:
        folders["disk, bundle"] = path
        bundle = attempt(lambda: Bundle.load(path))
        opened = bundle if isinstance(bundle, Failure) else _attempt_open(facts, bundle, plans)
    groups += [
        group("Memory and disk", resource_lines(facts, folders)),
        group("Engines", plan_lines(facts, plans, bundle if isinstance(bundle, Bundle) else None)),
    ]
    if path is not None and bundle is not None and opened is not None:
        groups.append(group("Bundle", bundle_lines(path, bundle, opened)))
    backend, reason = _of_any(facts) if opened is None else _of_bundle(facts, opened)
    command = "ffn-edge run" if path is None else f"ffn-edge run {path}"
    works = "would work" if backend else "would not work"
    return Report(
        groups=tuple(groups), backend=backend, verdict=f"`{command}` {works} here: {reason}."
    )


def _attempt_open(facts: Facts, bundle: Bundle, plans: PlanCache) -> Opened | Failure:
    return attempt(lambda: open_bundle(facts, bundle, plans))


def _of_bundle(facts: Facts, opened: Opened | Failure) -> tuple[str | None, str]:
    """Return what would run a bundle, and why; None and why not."""
    if isinstance(opened, Failure):
        return None, opened.message
    if isinstance(facts.opencv, Failure):
        return None, facts.opencv.message
    return opened.backend.name, opened.backend.in_words


def _of_any(facts: Facts) -> tuple[str | None, str]:
    """Return what would run some bundle, and why; None and why not."""
    if isinstance(facts.opencv, Failure):
        return None, facts.opencv.message
    for target, api in facts.ready.items():
        assert not isinstance(facts.gpu, Failure)
        return target, (
            f"{PRODUCTS[target]} {api.version} on {facts.gpu.name}, once `ffn-edge build` has "
            "built a bundle's engines"
        )
    why = _why_not_tensorrt(facts)
    if isinstance(facts.onnxruntime, Failure):
        return None, f"{facts.onnxruntime.message}, and {why}"
    return "onnxruntime", f"ONNX Runtime {facts.onnxruntime} on the CPU, as {why}"


def _why_not_tensorrt(facts: Facts) -> str:
    for target, api in facts.tensorrt.items():
        if not isinstance(api, Failure):
            assert isinstance(facts.gpu, Failure)  # else it would be used
            return f"{PRODUCTS[target]} cannot reach a GPU: {facts.gpu.message}"
        if facts.probes.has_module(MODULES[target]):
            return api.message
    return "TensorRT is not installed"
