"""Small whole files of every kind that this project reads, and how each is read."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import av
import cv2
import numpy as np
import onnx
import torch
from torch import Tensor, nn

from benchmarks.mutations import (
    HOSTILE,
    Raw,
    content_of,
    mutate_bytes,
    mutate_graph,
    mutate_header,
    mutate_json,
    odd_file,
    seal,
    spots,
)
from ffn_edge import network as ffn
from ffn_edge.bundle.bundle import Accuracy, Bundle, FileRecord
from ffn_edge.bundle.compose import compose
from ffn_edge.device.plan_cache import PlanCache, PlanKey, PlanWeight, Sidecar
from ffn_edge.errors import EngineError
from ffn_edge.export.bundle_update import update_bundle
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.export.composed_graph import plain_graph
from ffn_edge.media.classes import read_classes
from ffn_edge.media.frame_folder import FrameFolder
from ffn_edge.media.images import read_image
from ffn_edge.media.video import VideoReader
from ffn_edge.media.video_list import find_videos, read_list
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.checkpoint import ModelCard, load_checkpoint, save_checkpoint
from ffn_edge.runtime.cascade.calibration import calibrate, load_calibration, save_calibration
from ffn_edge.runtime.classifier import class_probabilities, top_classes
from ffn_edge.runtime.engines.engine import EngineOptions, cpu_backend, open_engines
from ffn_edge.runtime.limits_file import LimitsFile
from ffn_edge.runtime.policy.interface import (
    Limits,
    Observation,
    OperatingPoint,
    Sensed,
    Setting,
)
from ffn_edge.runtime.profile.power import PowerProfile
from ffn_edge.runtime.profile.profile import Latency, load_profile, save_profile
from ffn_edge.runtime.trace import TraceWriter, read_trace
from ffn_edge.train.log import RunLog

CLASSES = tuple(f"class{label}" for label in range(12))
SIZE = 16
FRAMES = (4, 8)
VIDEOS = {
    "h264.mp4": "libx264", "mpeg4.avi": "mpeg4", "ffv1.mkv": "ffv1", "mjpeg.mkv": "mjpeg",
    "vp8.webm": "libvpx", "mpeg2.ts": "mpeg2video",
}  # fmt: skip
_TWELVE = tuple(map(str, range(12)))  # names of classes
_ENGINE = EngineOptions(backend="onnxruntime", threads=1)
_KEY = PlanKey(
    target="tensorrt", tensorrt_version="10.3.0", sm="87", gpu="Orin", board=None,
    multiprocessors=8, memory_gib=8, l4t="36.4.3", precision="fp16", refit="identical",
    architecture="tsm_tiny", frames=4, graph_sha256="a" * 64, composed_sha256="b" * 64,
)  # fmt: skip

Attempt = Callable[[], object]


class _Net(nn.Module):
    """The least that has every operator which an export of ours writes for an image network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.norm2(self.conv(x)))
        logits: Tensor = self.fc(torch.flatten(self.pool(x), 1))
        return logits


def small_network(frames: tuple[int, ...] = (4, 8, 12), seed: int = 0) -> FrameFlexibleNetwork:
    """Return a network with random weights."""
    torch.manual_seed(seed)
    return ffn.specialize(_Net(), frames).eval()


def card() -> ModelCard:
    """Return what it was trained for."""
    accuracy = {t: Accuracy(top1=0.5 + t / 100, top5=0.9, clips=100) for t in (4, 8, 12)}
    return ModelCard(classes=CLASSES, size=SIZE, short_side=SIZE + 2, accuracy=accuracy)


def make_samples(folder: Path) -> None:
    """Write one whole file of every kind."""
    torch.set_num_threads(1)
    plain, shifted = small_network(), ffn.build("tsm_tiny", len(CLASSES), FRAMES).eval()
    for name, dtype in (("plain", "fp32"), ("half", "fp16"), ("added", "fp32"), ("tsm", "fp32")):
        network = shifted if name == "tsm" else plain
        bundle = export_bundle(
            network, card(), folder / name, frame_counts=FRAMES, weights_dtype=dtype
        )
        if name == "added":
            bundle = update_bundle(network, card(), folder / name, (12,)).bundle
        counts = bundle.manifest.frame_counts
        rng = np.random.default_rng(0)
        labels = rng.integers(0, len(CLASSES), 200)
        logits = {
            t: (np.eye(len(CLASSES))[labels] * t / 2 + rng.normal(size=(200, len(CLASSES)))).astype(
                np.float32
            )
            for t in counts
        }
        save_calibration(bundle, calibrate(bundle, logits, labels))
        power = PowerProfile(
            meter="INA3221",
            scope="module",
            idle_w=4.5,
            above_idle_w={"fp32": dict.fromkeys(counts, 1.5)},
        )
        latencies = {t: Latency((1.0 * t, 1.1 * t, 1.5 * t)) for t in counts}
        save_profile(bundle, cpu_backend(1), {"fp32": latencies}, power=power)
        path = bundle.path / "profile.json"
        fields = json.loads(path.read_text(encoding="utf-8"))
        # The same at any time: damage is drawn by the place in the file.
        moment = dict.fromkeys(fields["begin"], 50.0)
        fields.update(begin=moment, end=moment, created="2026-01-01T00:00:00+00:00")
        path.write_text(json.dumps(fields, indent=1), encoding="utf-8")
    _make_records(folder / "records")
    _make_checkpoint(folder / "records" / "checkpoint.pt")
    _make_videos(folder / "records")


def _make_records(folder: Path) -> None:
    folder.mkdir()
    sidecar = Sidecar(
        key=_KEY, flags=("STRIP_PLAN",), plan=FileRecord(bytes=0, sha256=""), power_mode="15W",
        weights=(PlanWeight(name="w", dtype="float32", count=2, source="constant", values=(1, 2)),),
        deviation=2e-4, build_seconds=1.25, created="2026-01-01T00:00:00+00:00", producer="x",
    )  # fmt: skip
    cache = PlanCache(folder / "cache")
    with cache.lock(), cache.workplace() as work:
        (work / "plan").write_bytes(b"plan")
        cache.store(sidecar, work / "plan")
    points = [
        OperatingPoint(frames=t, base_ms=5.0 * t, accuracy=0.5, clips=9, power_w=2.0)
        for t in FRAMES
    ]
    setting = Setting(points=points, ratios=(0.9, 1.0, 1.1), idle_w=4.5, period_s=0.25)
    with TraceWriter(folder / "trace.jsonl") as writer:
        writer.begin(setting, Limits(latency_ms=50.0), {"bundle": "x", "machine": {"cores": 2}})
        for hop in range(20):
            limits = Limits(latency_ms=50.0 if hop < 9 else 30.0)
            sensed = Sensed(power_w=6.0, energy_j=1.0 * hop, temperature_c=50.0)
            ms = 40.0 + hop
            writer.write(
                Observation(frames=8, latency_ms=ms, now=hop / 4 + 1, limits=limits, sensed=sensed)
            )
    limits_text = json.dumps({"latency_ms": 40, "power_w": 8.5, "miss_rate": 0.1})
    (folder / "limits.json").write_text(limits_text)
    (folder / "list.txt").write_text("h264.mp4 1\nimages 4 2\n")
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    lines = [{"step": n, "epoch": n // 4, "loss": 1.0 / (n + 1)} for n in range(12)]
    lines.append({"step": 11, "epoch": 2, "validation": {"4": {"top1": 0.5, "top5": 0.9}}})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _make_checkpoint(path: Path) -> None:
    torch.manual_seed(0)
    names = ("a", "b", "c")
    save_checkpoint(
        path,
        ffn.build("tsm_tiny", len(names), FRAMES),
        ModelCard(
            classes=names, size=SIZE, short_side=18, accuracy={4: Accuracy(top1=1, top5=1, clips=3)}
        ),
        {"recipe": {"epochs": 3}, "step": 3, "epoch": 1, "accuracy": {}, "average": None},
    )
    buffer = io.BytesIO()  # in a file, the archive's name would be that of a temporary
    torch.save(torch.load(path, weights_only=True), buffer)
    path.write_bytes(buffer.getvalue())


def _make_videos(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name, codec in VIDEOS.items():
        pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        with av.open(str(folder / name), "w") as container:
            stream: Any = container.add_stream(codec, 25)
            stream.width, stream.height, stream.pix_fmt = 48, 32, pixels
            stream.codec_context.time_base = Fraction(1, 25)
            for index in range(12):
                picture = av.VideoFrame.from_ndarray(
                    rng.integers(0, 256, (32, 48, 3), np.uint8), "bgr24"
                )
                picture.pts = index
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
    (folder / "images").mkdir()
    for index in range(4):
        image = rng.integers(0, 256, (24, 32, 3), np.uint8)
        for suffix in ("jpg", "png", "bmp"):
            cv2.imwrite(str(folder / f"images/{suffix}_{index}.{suffix}"), image)


def read_all(samples: Path, folder: Path) -> None:
    """Read every sample once, so that what is imported late is there; `folder` may be written."""
    for name in ("plain", "half", "added", "tsm"):
        load_profile(samples / name)
        _use_bundle(samples / name)
    records = samples / "records"
    load_checkpoint(records / "checkpoint.pt")
    read_trace(records / "trace.jsonl")
    read_classes(records / "classes.txt")
    read_list(records / "list.txt", classes=_TWELVE)
    find_videos(records / "list.txt")
    LimitsFile(records / "limits.json", Limits())()
    PlanCache(records / "cache").find(_KEY)
    for path in (records / "images").iterdir():
        read_image(path)
    for name in VIDEOS:
        with VideoReader(records / name, threads=1) as reader:
            list(reader)
    shutil.copy(records / "metrics.jsonl", folder)
    with RunLog(folder, 20, 8, 2, True):
        pass


# A bundle.


@dataclass(frozen=True)
class Case:
    """Damaged files in a folder: their family, what was done, and how they are read."""

    family: str
    said: str
    attempts: tuple[tuple[str, Attempt], ...]


def damaged_bundle(samples: Path, folder: Path, rng: Random) -> Case:
    """Copy a bundle into `folder` and damage it; half of them are sealed again."""
    bundle = folder / "bundle"
    shutil.copytree(samples / rng.choice(("plain", "plain", "half", "added", "tsm")), bundle)
    sealed = rng.random() < 0.5
    families = [_family(rng) for _ in range(rng.choice((1, 1, 2, 3)))]
    said = []
    identity = _identity(bundle)
    # The manifest is damaged last, so that sealing does not mend it.
    for family in sorted(families, key=lambda each: each == "manifest"):
        if family == "manifest" and sealed and "sealed" not in said:
            said.append(_sealed(bundle))
        said.append(_damage(bundle, family, rng))
    if sealed and "sealed" not in said:
        said.append(_sealed(bundle))
    calibration = bundle / "calibration.json"
    if sealed and (content := content_of(calibration)):
        calibration.write_bytes(content.replace(identity, _identity(bundle)))
    return Case(
        f"bundle, {families[0]}{', sealed' if sealed else ''}",
        "; ".join(said),
        (
            ("profile", lambda: load_profile(bundle)),
            ("bundle", lambda: _use_bundle(bundle)),
        ),
    )


def _identity(bundle: Path) -> bytes:
    """Return what a calibration calls a bundle."""
    return hashlib.sha256(content_of(bundle / "manifest.json")).hexdigest().encode()


def _sealed(bundle: Path) -> str:
    try:
        seal(bundle)
    except (OSError, ValueError, KeyError):
        return "sealed not"
    return "sealed"


def _family(rng: Random) -> str:
    return rng.choices(
        ("manifest", "header", "graph", "bytes", "kind of file", "beside", "weights"),
        (6, 4, 6, 2, 1, 2, 1),
    )[0]


def _damage(bundle: Path, family: str, rng: Random) -> str:
    files = sorted(each for each in bundle.iterdir())
    by_kind = {
        "manifest": [bundle / "manifest.json"],
        "header": [each for each in files if each.suffix == ".safetensors"],
        "weights": [each for each in files if each.suffix == ".safetensors"],
        "graph": [each for each in files if each.suffix == ".onnx"],
        "beside": [bundle / "profile.json", bundle / "calibration.json"],
    }
    path = rng.choice(by_kind.get(family) or files)
    if family == "kind of file":
        return f"{path.name} is {odd_file(path, rng)}"
    if not (data := content_of(path)):
        return f"{path.name}: nothing more"
    try:
        match family:
            case "manifest" | "beside":
                said: list[str] = []
                text = mutate_json(data.decode(), rng, said.append)
                new, what = text.encode("utf-8", "surrogatepass"), said[0]
            case "header":
                new, what = mutate_header(data, rng)
            case "graph":
                new, what = mutate_graph(data, rng, [each.name for each in files])
            case "weights":  # numbers that no training gives
                at = len(data) - 4 * rng.randrange(1, 500)
                bits = rng.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f"))
                new, what = data[:at] + bits + data[at + 4 :], f"{bits.hex()} at {at}"
            case _:
                new, what = mutate_bytes(data, rng)
    except (ValueError, LookupError, RecursionError, TypeError, OverflowError) as error:
        # What an earlier damage left cannot be damaged in this way.
        return f"{path.name}: nothing more ({type(error).__name__})"
    except Exception as error:  # protobuf's errors have no base class of their own
        return f"{path.name}: nothing more ({type(error).__name__})"
    path.write_bytes(new)
    return f"{path.name}: {what}"


def _use_bundle(path: Path) -> None:
    """Load and run a bundle as `run` does, and compose its weights as `build` does."""
    bundle = Bundle.load(path)
    refused: Exception | None = None
    try:
        load_calibration(bundle)
    except EngineError:
        raise
    except Exception as error:
        refused = error
    manifest = bundle.manifest
    contract = manifest.input
    with open_engines(bundle, _ENGINE) as engines:
        for frames, engine in engines.items():
            clip = np.zeros((contract.batch, frames, contract.height, contract.width, 3), np.uint8)
            clip[..., ::3, :] = 200
            logits = engine.infer(clip)[0]
            best = top_classes(logits, class_probabilities(logits), manifest.classes)
            if not all(0 <= each.probability <= 1 for each in best):
                raise AssertionError(f"answered with no probability: {best}")
    tensors = bundle.tensors()
    for frames in manifest.frame_counts:
        composed = dict(compose(tensors, manifest.layers, frames))
        plain_graph(onnx.load_model_from_string(bundle.read_graph(frames)), tensors, composed)
    if refused is not None:
        raise refused


# Other files.


def damaged_file(samples: Path, folder: Path, rng: Random) -> Case:
    """Copy one file of another kind into `folder`, and damage it."""
    kind = rng.choices(list(_OTHERS), [weight for weight, _ in _OTHERS.values()])[0]
    case = _OTHERS[kind][1](samples / "records", folder, rng)
    return Case(f"file, {kind}", case.said, case.attempts)


def _copy(path: Path, folder: Path) -> Path:
    target = folder / path.name
    shutil.copy(path, target)
    return target


def _spoil(path: Path, rng: Random, *, lines: bool = False, plain: bool = False) -> str:
    """Damage a text file: its bytes, its kind, or its JSON (of one line where `lines`)."""
    draw = rng.random()
    if draw < 0.06:
        return odd_file(path, rng)
    data = path.read_bytes()
    if draw < 0.25:
        new, said = mutate_bytes(data, rng)
        path.write_bytes(new)
        return said
    if plain:
        return _spoil_lines(path, rng)
    rows = data.decode().splitlines() if lines else [data.decode()]
    at = rng.randrange(min(3, len(rows))) if rng.random() < 0.7 else rng.randrange(len(rows))
    found: list[str] = []
    rows[at] = mutate_json(rows[at], rng, found.append)
    path.write_bytes("\n".join(rows).encode("utf-8", "surrogatepass"))
    return f"line {at + 1}: {found[0]}"


def _spoil_lines(path: Path, rng: Random) -> str:
    rows = path.read_bytes().decode().splitlines()
    texts = [str(each) for each in HOSTILE if isinstance(each, str | int | float)]
    texts += [each.text for each in HOSTILE if isinstance(each, Raw)]
    text = rng.choice(texts)
    at = rng.randrange(len(rows) + 1)
    line = rng.choice((text, f"{text} 1", f"{text} 4 1", f"h264.mp4 {text}", f"images {text} 1"))
    rows[at:at] = [line] * rng.choice((1, 1, 3))
    path.write_bytes("\n".join(rows).encode("utf-8", "surrogatepass"))
    return f"line {at + 1} is {ascii(line)[:60]}"


def _profile(records: Path, folder: Path, rng: Random) -> Case:
    path = _copy(records.parent / "plain" / "profile.json", folder)
    said = _spoil(path, rng)
    return Case("", said, (("load_profile", lambda: load_profile(folder)),))


def _calibration(records: Path, folder: Path, rng: Random) -> Case:
    shutil.copytree(records.parent / "plain", folder / "bundle")
    said = _spoil(folder / "bundle" / "calibration.json", rng)
    return Case(
        "", said, (("load_calibration", lambda: load_calibration(Bundle.load(folder / "bundle"))),)
    )


def _sidecar(records: Path, folder: Path, rng: Random) -> Case:
    cache = folder / "cache"
    shutil.copytree(records / "cache", cache)
    path = next(cache.glob("*.json"))
    said = _spoil(path, rng)
    if rng.random() < 0.6:
        try:  # the hash that stands in it made right again
            fields = json.loads(content_of(path))
            fields.pop("sha256", None)
            fields["sha256"] = hashlib.sha256(
                json.dumps(fields, sort_keys=True).encode()
            ).hexdigest()
            path.write_text(json.dumps(fields))
            said += ", sealed"
        except Exception:  # it is no object any more, or no file to be read
            pass
    if rng.random() < 0.1:
        said += f"; the plan is {odd_file(next(cache.glob('*.plan')), rng)}"
    return Case(
        "",
        said,
        (
            ("sidecars", lambda: list(PlanCache(cache).sidecars())),
            ("nearest", lambda: PlanCache(cache).nearest([_KEY])),
            ("find", lambda: PlanCache(cache).find(_KEY)),
        ),
    )


def _trace(records: Path, folder: Path, rng: Random) -> Case:
    path = _copy(records / "trace.jsonl", folder)
    return Case("", _spoil(path, rng, lines=True), (("read_trace", lambda: read_trace(path)),))


def _limits(records: Path, folder: Path, rng: Random) -> Case:
    path = _copy(records / "limits.json", folder)
    said = _spoil(path, rng)
    return Case("", said, (("limits", lambda: LimitsFile(path, Limits())()),))


def _classes(records: Path, folder: Path, rng: Random) -> Case:
    path = _copy(records / "classes.txt", folder)
    said = _spoil(path, rng, plain=True)
    return Case("", said, (("read_classes", lambda: read_classes(path)),))


def _list(records: Path, folder: Path, rng: Random) -> Case:
    _copy(records / "h264.mp4", folder)
    shutil.copytree(records / "images", folder / "images")
    path = folder / "list.txt"
    labelled = rng.random() < 0.5
    path.write_text("h264.mp4 1\nimages 4 2\n" if labelled else "h264.mp4\nimages 4\n")
    said = _spoil(path, rng, plain=True)
    return Case(
        "",
        said,
        (
            ("read_list", lambda: read_list(path, classes=_TWELVE if labelled else None)),
            ("find_videos", lambda: find_videos(path)),
        ),
    )


def _metrics(records: Path, folder: Path, rng: Random) -> Case:
    path = _copy(records / "metrics.jsonl", folder)
    said = _spoil(path, rng, lines=True)

    def resume() -> None:
        with RunLog(folder, 20, 8, 2, True):
            pass

    return Case("", said, (("RunLog", resume),))


def _checkpoint(records: Path, folder: Path, rng: Random) -> Case:
    path = _copy(records / "checkpoint.pt", folder)
    data = path.read_bytes()
    draw = rng.random()
    if draw < 0.05:
        said = odd_file(path, rng)
    elif draw < 0.25:
        new, said = mutate_bytes(data, rng)
        path.write_bytes(new)
    elif draw < 0.5:  # what is packed in the archive, whose sums are then right
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {each: archive.read(each) for each in archive.namelist()}
        name = next(each for each in members if each.endswith("data.pkl"))
        if rng.random() < 0.3:
            name = rng.choice(sorted(members))
        members[name], what = mutate_bytes(members[name], rng)
        with zipfile.ZipFile(path, "w") as archive:
            for each, content in members.items():
                archive.writestr(each, content)
        said = f"{name}: {what}"
    else:
        content = torch.load(path, weights_only=True)
        said = _mutate_tree(content, rng)
        torch.save(content, path)
    return Case("", said, (("load_checkpoint", lambda: load_checkpoint(path)),))


def _mutate_tree(content: dict[str, Any], rng: Random) -> str:
    places = [
        (node, key)
        for node, key in spots(content)
        if not isinstance(node, tuple) and node is not content["state_dict"]
    ]
    state = content["state_dict"]
    places += [(state, name) for name in rng.sample(sorted(state), 8)]
    # What a network is built from is read before anything is compared.
    node, key = rng.choice(places)
    if rng.random() < 0.4:
        node, key = content, rng.choice(sorted(content))
    was = node[key]
    if isinstance(was, Tensor) and rng.random() < 0.8:
        value: Any = rng.choice(
            (
                was.double(), was.half(), was.flatten(), was[None], torch.full_like(was, 0) / 0,
                was.to_sparse() if was.dim() else was[None], torch.zeros(()), was.to("meta"),
                torch.zeros(1).expand(10**9), was.cfloat(), was.int(), was.reshape(-1)[:1],
            )
        )  # fmt: skip
    else:
        plain = [each for each in HOSTILE if not isinstance(each, Raw)]
        value = rng.choice(
            (
                *plain, 10**400, float("nan"), float("inf"), torch.zeros(3), {4: 1}, (1, 2), b"x",
                10**7, 10**6, [4, 8, 10**6], [4] * 10**5, list(range(1, 65)), [8, 4], ["4"],
                "tsm_resnet50", "uniformer_s", "slowfast_r50", "\ud800",
            )
        )  # fmt: skip
    if node is content and key in ("num_classes", "frame_counts") and rng.random() < 0.5:
        value = 10 ** rng.choice((5, 6, 7, 7, 8, 12, 18))
        value = value if key == "num_classes" else rng.choice(([4, value], list(range(1, 2000))))
    if rng.random() < 0.1:
        del node[key]
        return f"without {ascii(key)[:60]}"
    node[key] = value
    shown = f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else ascii(value)
    return f"{ascii(key)[:60]} = {shown[:60]}"


def _video(records: Path, folder: Path, rng: Random) -> Case:
    path = _copy(records / rng.choice(list(VIDEOS)), folder)
    if rng.random() < 0.06:
        said = odd_file(path, rng)
    else:
        data = path.read_bytes()
        said = path.name
        for _ in range(rng.choice((1, 1, 2, 5))):
            if rng.random() < 0.4:  # of what says how the rest is to be read
                head = 600 if rng.random() < 0.5 else 100
                ends = data[:head], data[head:]
                if path.suffix == ".mp4" and (at := data.find(b"moov")) > 0:
                    ends = data[:at], data[at:]
                front, what = mutate_bytes(ends[1 if path.suffix == ".mp4" else 0], rng)
                data = ends[0] + front if path.suffix == ".mp4" else front + ends[1]
            else:
                data, what = mutate_bytes(data, rng)
            said += f": {what}"
        path.write_bytes(data)

    def iterate() -> None:
        with VideoReader(path, threads=1) as reader:
            for count, _ in enumerate(reader):
                if count > 300:
                    break

    def sample() -> None:
        with VideoReader(path, threads=1) as reader:
            reader.sample(lambda frames: {4: np.linspace(0, frames - 1, 4).astype(np.int64)})

    return Case("", said, (("iterate", iterate), ("sample", sample)))


def _image(records: Path, folder: Path, rng: Random) -> Case:
    shutil.copytree(records / "images", folder / "images")
    suffix = rng.choice(("jpg", "png", "bmp"))
    for other in (folder / "images").iterdir():
        if other.suffix != f".{suffix}":
            other.unlink()
    path = folder / "images" / f"{suffix}_{rng.randrange(4)}.{suffix}"
    if rng.random() < 0.15:
        said = odd_file(path, rng)
    else:
        new, said = mutate_bytes(path.read_bytes(), rng)
        path.write_bytes(new)

    def through_folder() -> None:
        with FrameFolder(folder / "images") as frames:
            for _ in frames:
                pass

    return Case(
        "",
        f"{path.name}: {said}",
        (("read_image", lambda: read_image(path)), ("folder", through_folder)),
    )


_OTHERS: dict[str, tuple[int, Callable[[Path, Path, Random], Case]]] = {
    "profile": (3, _profile),
    "calibration": (3, _calibration),
    "sidecar": (3, _sidecar),
    "trace": (3, _trace),
    "limits": (2, _limits),
    "classes": (1, _classes),
    "list": (2, _list),
    "metrics": (1, _metrics),
    "checkpoint": (6, _checkpoint),
    "video": (4, _video),
    "image": (2, _image),
}
