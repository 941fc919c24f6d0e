"""What `ffn-edge export`, `verify` and `build` report: a table for people, fields for JSON."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.progress import Progress, TaskID
from rich.table import Table
from rich.text import Text

from ffn_edge.bundle.bundle import ENOUGH_CLIPS, MANIFEST, WEIGHTS, Bundle, Quantized
from ffn_edge.device.tensorrt_api import PRODUCTS
from ffn_edge.errors import counted
from ffn_edge.export.int8_graph import ALWAYS_IN_FLOAT32
from ffn_edge.progress import NowAndThen

if TYPE_CHECKING:  # a device that builds has no ONNX Runtime, with which verification runs
    from ffn_edge.export.clips import ClipSet
    from ffn_edge.export.tensorrt_plan import Built
    from ffn_edge.export.verify import Verified

_log = logging.getLogger(__name__)


def export_fields(bundle: Bundle) -> dict[str, Any]:
    """Return what was exported, ready for JSON; sizes in bytes."""
    manifest = bundle.manifest
    return {
        "path": str(bundle.path),
        "identity": bundle.identity,
        "architecture": manifest.architecture,
        "classes": len(manifest.classes),
        "weights_dtype": manifest.weights_dtype,
        "weights_bytes": manifest.files[WEIGHTS].bytes,
        "bundle_bytes": sum(file.bytes for file in manifest.files.values())
        + (bundle.path / MANIFEST).stat().st_size,
        "frames": {
            frames: {
                "graph_bytes": manifest.files[sub.graph].bytes,
                "macs": sub.macs,
                "accuracy": dataclasses.asdict(sub.accuracy) if sub.accuracy else None,
            }
            for frames, sub in manifest.sub_networks.items()
        },
        "unfolded": list(manifest.unfolded),
    }


def export_table(bundle: Bundle) -> Table:
    """Return what was exported as a table for the terminal."""
    fields = export_fields(bundle)
    caption = (
        f"{fields['architecture']}, {fields['classes']} classes; shared weights "
        f"{fields['weights_dtype']}, {fields['weights_bytes'] / 1e6:.2f} MB; "
        f"bundle {fields['bundle_bytes'] / 1e6:.2f} MB"
    )
    if fields["unfolded"]:
        caption += f"\n{len(fields['unfolded'])} norms or alterations stay operations of their own"
    table = Table(title=fields["path"], caption=caption)
    for heading in ("frames", "graph", "GMACs", "top-1", "top-5"):
        table.add_column(heading, justify="right")
    for frames, sub in fields["frames"].items():
        accuracy = sub["accuracy"]
        table.add_row(
            str(frames),
            f"{sub['graph_bytes'] / 1e3:.0f} kB",
            f"{sub['macs'] / 1e9:.3g}",
            *(f"{accuracy[key]:.1%}" if accuracy else "–" for key in ("top1", "top5")),
        )
    return table


def quantized_fields(bundle: Bundle, found: Mapping[int, Quantized]) -> dict[str, Any]:
    """Return what was found of a bundle in INT8, ready for JSON; sizes in bytes."""
    files = bundle.manifest.files
    return {
        "path": str(bundle.path),
        "identity": bundle.identity,
        "frames": {
            frames: {
                **dataclasses.asdict(each),
                "bytes": files[each.graph].bytes,
                "loss": each.loss,
                "is_accurate": each.is_accurate,
            }
            for frames, each in found.items()
        },
    }


def quantized_table(bundle: Bundle, found: Mapping[int, Quantized]) -> Table:
    """Return the same as a table for the terminal."""
    table = Table(title=f"{bundle.path} in INT8")
    for heading in ("frames", "graph", "float32", "INT8", "lost", "same class", "in float32"):
        table.add_column(heading, justify="right")
    for frames, each in found.items():
        accuracies = (each.accuracy_float32, each.accuracy)
        table.add_row(
            str(frames),
            f"{bundle.manifest.files[each.graph].bytes / 1e3:.0f} kB",
            *("–" if accuracy is None else f"{accuracy.top1:.1%}" for accuracy in accuracies),
            "–" if each.loss is None else f"{100 * each.loss:.1f} ± {100 * each.loss_error:.1f}",
            f"{each.agreement:.1%}",
            counted(len(each.in_float32), "layer"),
        )
    caption = [f"on {counted(each.compared_on, 'clip')}; ranges by {each.method}"]
    caption += [
        f"{frames} frames: {name} stays float32 ({why})"
        for frames, each in found.items()
        for name, why in each.in_float32.items()
        if why not in ALWAYS_IN_FLOAT32
    ]
    table.caption = "\n".join(caption)
    return table


def quantized_summary(bundle: Bundle, *, graphs: bool) -> str:
    """Say what comes of what was found, and what is to be done with it.

    Args:
        bundle: as it is now.
        graphs: whether they are new, too.
    """
    quantized = bundle.manifest.quantized
    lines = []
    if refused := [str(frames) for frames, each in quantized.items() if not each.is_accurate]:
        lines.append(
            f"`run` will not choose INT8 at {', '.join(refused)} frames by itself: at most half a "
            f"point may be lost, by labels of {ENOUGH_CLIPS} clips or more. To measure it on more: "
            f"ffn-edge verify {bundle.path} --precision int8 --source LIST --labels --clips 1000"
        )
    new = [name for each in quantized.values() for name in (each.graph, each.step) if name]
    files = [*(new if graphs else ()), MANIFEST]
    lines.append(f"to copy to where it is deployed, in this order: {', '.join(files)}")
    lines.append("then ffn-edge profile it again, and calibrate if you use --escalate")
    return "\n".join(lines)


def verify_fields(bundle: Bundle, clip_set: ClipSet, found: Sequence[Verified]) -> dict[str, Any]:
    """Return what was verified, ready for JSON."""
    return {
        "path": str(bundle.path),
        "identity": bundle.identity,
        "source": clip_set.source,
        "passed": all(each.passed for each in found),
        "frames": {
            each.frames: {
                "clips": each.clips,
                "composed_matches": each.composed_matches,
                "comparisons": [
                    dataclasses.asdict(pair) | {"passed": pair.passed} for pair in each.comparisons
                ],
            }
            for each in found
        },
    }


def verify_table(bundle: Bundle, clip_set: ClipSet, found: Sequence[Verified]) -> Table:
    """Return what was verified as a table for the terminal."""
    table = Table(title=str(bundle.path), caption=f"clips: {clip_set.source}")
    for heading in ("frames", "compared", "max |Δ|", "relative", "tolerance", "same top-1", ""):
        table.add_column(heading, justify="left" if heading == "compared" else "right")
    for each in found:
        for pair in each.comparisons:
            table.add_row(
                str(each.frames),
                pair.pair,
                f"{pair.max_difference:.1e}" if pair.max_difference else "0",
                f"{pair.relative:.1e}" if pair.relative else "0",
                f"{pair.tolerance:.0e}",
                f"{pair.same_top1}/{each.clips}",
                _verdict(pair.passed),
            )
        table.add_row(
            str(each.frames),
            "composed sha256",
            *("",) * 4,
            _verdict(each.composed_matches),
            end_section=True,
        )
    return table


class BuildProgress:
    """A bar for each phase of a build that is under way; TensorRT nests them.

    Where there is no terminal for bars, it says now and then how far the phase at hand is.
    """

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._say = NowAndThen(_log.info)
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps of a phase are done."""
        if self._bar.disable:
            self._say(lambda: f"{phase}: {done} of {total}")
            return
        if phase not in self._tasks:
            self._tasks[phase] = self._bar.add_task(phase, total=total)
        self._bar.update(self._tasks[phase], completed=done)
        if done >= total:
            self._bar.remove_task(self._tasks.pop(phase))


def build_summary(built: Sequence[Built]) -> str:
    """Return what all engines have in common, in one line."""
    plan = built[0].plan
    weights = "their weights" if plan.sidecar.key.refit == "none" else "no weights"
    product = PRODUCTS[plan.sidecar.key.target]
    tried = "" if plan.sidecar.deviation is not None else "; not tried here, without a GPU"
    return (
        f"{product} {plan.sidecar.key.tensorrt_version}; the engines hold {weights}, "
        f"in {plan.path.parent}{tried}"
    )


def build_fields(built: Sequence[Built]) -> list[dict[str, Any]]:
    """Return what was built, ready for JSON."""
    return [
        {
            "frames": each.plan.sidecar.key.frames,
            "path": str(each.plan.path),
            "bytes": each.plan.sidecar.plan.bytes,
            "reused": each.reused,
            "build_seconds": each.plan.sidecar.build_seconds,
            "deviation": each.plan.sidecar.deviation,
            "flags": list(each.plan.sidecar.flags),
            **dataclasses.asdict(each.plan.sidecar.key),
        }
        for each in built
    ]


def build_table(built: Sequence[Built]) -> Table:
    """Return what was built as a table for the terminal."""
    key = built[0].plan.sidecar.key
    where = "RTX GPUs" if key.sm == "any" else f"{key.gpu}, SM {key.sm}"
    table = Table(title=f"{key.architecture} in {key.precision} for {where}", min_width=60)
    for heading in ("frames", "engine", "built in", "", "off by, of the largest logit"):
        table.add_column(heading, justify="right")
    for each in built:
        table.add_row(
            str(each.plan.sidecar.key.frames),
            f"{each.plan.sidecar.plan.bytes / 1e6:.2f} MB",
            f"{each.plan.sidecar.build_seconds:.1f} s",
            "from the cache" if each.reused else "new",
            "–" if (off := each.plan.sidecar.deviation) is None else f"{off:.1e}",
        )
    return table


def _verdict(passed: bool) -> Text:
    return Text("ok") if passed else Text("differs", style="bold red")
