"""Where built engines are kept: a plan and a JSON sidecar each, in a folder, under a lock.

    tsm_resnet50-16-fp16-3f2a….plan     what TensorRT serialised; without weights, about 2 MB
    tsm_resnet50-16-fp16-3f2a….json     this module's `Sidecar`: what it is and what it needs
    tsm_resnet50-16-fp16-3f2a….kernels  what TensorRT-RTX compiled of it when it first ran
    tsm_resnet50-16-step-fp16-07c9….*   likewise, of the engine for the next frame of a stream
    timings-10.3.0-87-5d0c….cache       TensorRT's measurements here, for the next build
    lock                                held while something is built

The name of a plan ends in a hash of all that it depends on, so a plan that fits is found by
name, and one that does not is never opened: TensorRT may crash on a plan of another version.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from filelock import FileLock, Timeout

from ffn_edge.bundle.bundle import Bundle, FileRecord, Precision, check_file, file_record
from ffn_edge.device.gpu import Gpu
from ffn_edge.device.jetson import board_model, l4t_release
from ffn_edge.device.tensorrt_api import Api
from ffn_edge.errors import BundleError, EngineError, reason_of
from ffn_edge.files.atomic import atomic_file, write_text
from ffn_edge.files.regular_file import read_bytes
from ffn_edge.files.schema import Between, Count, Format, NotNegative, Positive

SCHEMA_VERSION = 2
# To be raised by a change of `export/composed_graph.py`, `export/half_precision.py`,
# `export/plan_graph.py` or `export/tensorrt_plan.py` that makes other engines of the same bundle.
RECIPE = 2
REFITS = ("identical", "any", "none")
# What a build leaves behind when it is killed, and the next one removes.
_UNFINISHED = ".build-"

# Of a plan, which may hold its weights, and of what is compiled for it.
_MOST_BYTES = 1 << 34

_ROOT = Path("/")
_REBUILD = "build it again with `ffn-edge build`."


def default_folder() -> Path:
    """Return the folder for caches that the system or the user chose."""
    chosen = os.environ.get("FFN_EDGE_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "ffn-edge"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanKey:
    """All that a plan depends on.

    Attributes:
        target: "tensorrt" or "rtx".
        tensorrt_version: plans are not portable between versions.
        sm: the GPU's architecture, such as "87"; "any" where the plan runs on all.
        gpu: its name, or "any": TensorRT warns of plans from another model of one architecture.
        board: the Jetson's model, or None: CUDA calls every Orin "Orin".
        multiprocessors: of the GPU; a power mode may switch some of them off. 0 is any.
        memory_gib: of the GPU, rounded up to a power of two, as modules are sold. 0 is any.
        l4t: the Jetson Linux release, or None.
        precision: what it computes in.
        refit: "identical" weights only, "any" weights, or "none": the plan holds its weights.
        architecture: of the bundle.
        frames: T.
        graph_sha256: of the bundle's graph for the precision.
        composed_sha256: of the weights it was built with; None if any will do.
        recipe: how this project turns a graph into what TensorRT parses; see `RECIPE`.
        step: it is for the next frame of a stream, and not for a clip.
    """

    target: str
    tensorrt_version: str
    sm: str
    gpu: str
    board: str | None
    multiprocessors: Count
    memory_gib: Count
    l4t: str | None
    precision: Precision
    refit: str
    architecture: str
    frames: Positive
    graph_sha256: str
    composed_sha256: str | None
    recipe: int = RECIPE
    step: bool = False

    @property
    def name(self) -> str:
        """The plan's file name, without its ending."""
        fields = dataclasses.asdict(self)
        kind = "step-" if fields.pop("step") else ""
        digest = _sha256_of(fields)[:16]
        return f"{self.architecture}-{self.frames}-{kind}{self.precision}-{digest}"

    def on(self, api: Api, gpu: Gpu, root: Path = _ROOT) -> PlanKey:
        """Return the key that the same plan has where it is built with `api` for `gpu`."""
        return dataclasses.replace(self, **_machine(api, None if self.sm == "any" else gpu, root))


def plan_key(
    api: Api,
    gpu: Gpu | None,
    bundle: Bundle,
    frames: int,
    precision: Precision,
    refit: str,
    root: Path = _ROOT,
    *,
    step: bool = False,
) -> PlanKey:
    """Return what a plan for one frame count of a bundle depends on, here and now.

    Args:
        api: the TensorRT that builds or runs it.
        gpu: the device; None where RTX builds without one.
        bundle: its files were checked when it was loaded.
        frames: T.
        precision: what it computes in.
        refit: see `PlanKey`.
        root: see `ffn_edge.device`.
        step: see `PlanKey`.

    Raises:
        BundleError: the bundle has no graph for it.
    """
    manifest = bundle.manifest
    sub_network = manifest.sub_networks[frames]
    graph = sub_network.graph  # float16 is written into float32's
    if step or precision == "int8":
        graph = bundle.graph_path(frames, precision, step=step).name
    return PlanKey(
        target=api.target,
        **_machine(api, None if api.plan_fits_any_gpu else gpu, root),
        precision=precision,
        refit=refit,
        architecture=manifest.architecture,
        frames=frames,
        graph_sha256=manifest.files[graph].sha256,
        composed_sha256=None if refit == "any" else sub_network.composed_sha256,
        step=step,
    )


def buildable(bundle: Bundle, frames: int, *, step: bool = False) -> tuple[Precision, ...]:
    """Return the precisions that a frame count's engines can be built in; see `PlanKey.step`."""
    sub_network = bundle.manifest.sub_networks[frames]
    graphs = sub_network.steps if step else sub_network.graphs
    return (*graphs, "fp16") if graphs else ()  # of float32's graph


def _machine(api: Api, gpu: Gpu | None, root: Path) -> dict[str, Any]:
    """Return what a `PlanKey` says of the machine; a GPU of None is any."""
    if gpu is None:
        device = {"sm": "any", "gpu": "any", "board": None, "multiprocessors": 0, "memory_gib": 0}
    else:
        device = {
            "sm": gpu.sm,
            "gpu": gpu.name,
            "board": board_model(root),
            "multiprocessors": gpu.multiprocessors,
            "memory_gib": 1 << (gpu.memory_bytes - 1 >> 30).bit_length(),
        }
    return {"tensorrt_version": api.version, "l4t": l4t_release(root), **device}


_MISFITS = {
    "target": "for {0}, not {1}",
    "tensorrt_version": "of TensorRT {0}; this is {1}",
    "sm": "for a GPU of SM {0}; this one has SM {1}",
    "gpu": "for {0}; this is {1}",
    "board": "for the board {0}; this is {1}",
    "multiprocessors": "for a GPU of {0} multiprocessors; this one has {1} (a power mode may "
    "switch some off)",
    "memory_gib": "for a GPU of at most {0} GiB; this one is of {1} GiB",
    "l4t": "of L4T {0}; this is {1}",
    "recipe": "of another release of ffn-edge",
    "precision": "in {0}, not {1}",
    "refit": "built with --refit {0}, not {1}",
    "architecture": "of {0}, not {1}",
    "frames": "for {0} frames, not {1}",
    "step": "for a stream: {0}, not {1}",
    "graph_sha256": "of another graph: the bundle was exported anew since",
    "composed_sha256": "of other weights: the bundle's weights changed since (build again, or "
    "build once with --refit any for weights that will change)",
}


def misfits(key: PlanKey, here: PlanKey) -> list[str]:
    """Say why a plan of `key` does not serve where one of `here` is wanted; nothing if it does."""
    return [
        text.format(getattr(key, field) or "none", getattr(here, field) or "none")
        for field, text in _MISFITS.items()
        if getattr(key, field) != getattr(here, field)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanWeight:
    """A weight that an engine must be given.

    Attributes:
        name: as TensorRT knows it: the ONNX initializer's.
        dtype: NumPy's name; weights are "float32" or "float16", constants may be integers.
        count: how many values.
        source: "composed" from the shared weights, "stored" in the weight file as it is, or
            "constant": written into the graph.
        values: of a constant: of shapes, a few; of an INT8 weight's scales, one a channel.
    """

    name: str
    dtype: str
    count: Count
    source: Literal["composed", "stored", "constant"]
    values: tuple[bool | int | Annotated[float, Between(-math.inf, math.inf)], ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """What stands beside a plan.

    Attributes:
        schema_version: of this format.
        key: what the plan depends on.
        flags: of TensorRT's builder, by name.
        weights: what the engine may have to be given.
        plan: the plan's file.
        power_mode: of the Jetson when it was built: under another, other kernels may be faster.
        deviation: the largest |Δlogit| on the known clips, relative to the largest logit of the
            clip, of the engine as it ran when it was built; None if there was no GPU.
        build_seconds: how long it took.
        created: when, in UTC.
        producer: the release that built it.
    """

    schema_version: int = SCHEMA_VERSION
    key: PlanKey
    flags: tuple[str, ...]
    weights: tuple[PlanWeight, ...]
    plan: FileRecord
    power_mode: str | None
    deviation: NotNegative | None
    build_seconds: NotNegative
    created: str
    producer: str

    def built_in_another_mode(self, mode: str | None) -> str:
        """Say that the plan was built in another power mode than `mode`; nothing if it was not."""
        if None in (mode, self.power_mode) or mode == self.power_mode:
            return ""
        return f"built in power mode {self.power_mode}, and this is {mode}"

    def to_json(self) -> str:
        """Return the text of the file."""
        return json.dumps(dataclasses.asdict(self)) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Sidecar:
        """Read the text of a sidecar.

        Raises:
            EngineError: it is damaged, or of a schema that this release does not know.
        """
        return _FORMAT.from_text(text, where)


_FORMAT = Format(
    cls=Sidecar,
    versions=(SCHEMA_VERSION,),
    kind="the sidecar of a plan",
    hint=_REBUILD,
    error=EngineError,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan that was checked: its file is whole and its sidecar says what it is."""

    path: Path
    sidecar: Sidecar

    def read(self) -> bytes:
        """Return the plan's bytes.

        Raises:
            EngineError: it cannot be read.
        """
        try:
            return read_bytes(self.path, _MOST_BYTES)
        except OSError as error:
            raise EngineError(
                f"{self.path} cannot be read: {reason_of(error)}", _REBUILD
            ) from error

    def read_kernels(self) -> bytes:
        """Return what `write_kernels` wrote; nothing if it cannot be read."""
        try:
            return read_bytes(self._kernels, _MOST_BYTES)
        except OSError:
            return b""

    def write_kernels(self, compiled: bytes) -> None:
        """Keep compiled kernels beside the plan. Where that fails, each start compiles them."""
        with suppress(OSError), atomic_file(self._kernels) as temporary:
            temporary.write_bytes(compiled)

    @property
    def _kernels(self) -> Path:
        return self.path.with_suffix(".kernels")


class PlanCache:
    """A folder of plans."""

    def __init__(self, folder: Path | None = None) -> None:
        """Remember the folder; nothing is made before something is stored.

        Args:
            folder: None is `default_folder()`.
        """
        self.folder = default_folder() if folder is None else folder

    @contextmanager
    def lock(self, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the cache alone. The lock ends with the process, however that ends.

        Args:
            waiting: is called once if another process holds it.

        Raises:
            EngineError: the folder cannot be written.
        """
        with _written(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / "lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                waiting()
                lock.acquire()
        try:
            for leftover in self.folder.glob(f"{_UNFINISHED}*"):  # of a build that was killed
                shutil.rmtree(leftover, ignore_errors=True)
            yield
        finally:
            lock.release()

    @contextmanager
    def workplace(self) -> Iterator[Path]:
        """Yield a folder for what a build needs in between; it is removed at the end.

        Only under the lock.

        Raises:
            EngineError: it cannot be written, or the disk is full.
        """
        folder = self.folder / f"{_UNFINISHED}{os.getpid()}"
        with _written(self.folder):
            folder.mkdir(parents=True)
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def find(self, key: PlanKey) -> Plan | None:
        """Return the plan for a key; None if it was never built.

        Raises:
            EngineError: it is there, but damaged.
        """
        path, sidecar_path = self._paths(key)
        if not path.exists() and not sidecar_path.exists():
            return None
        sidecar = read_sidecar(sidecar_path)
        if sidecar.key != key:
            raise EngineError(f"{sidecar_path} belongs to another plan", _REBUILD)
        try:
            check_file(path, sidecar.plan)
        except BundleError as error:
            raise EngineError(error.message, _REBUILD) from error
        return Plan(path, sidecar)

    def store(self, sidecar: Sidecar, plan: Path) -> Plan:
        """Move a finished plan into the cache, atomically; the sidecar last, so it seals it.

        What was compiled of it goes along.

        Args:
            sidecar: its `plan` is filled in here.
            plan: a file in `workplace`.

        Raises:
            EngineError: the folder cannot be written.
        """
        path, sidecar_path = self._paths(sidecar.key)
        sealed = dataclasses.replace(sidecar, plan=file_record(plan))
        with _written(self.folder):
            sidecar_path.unlink(missing_ok=True)
            with atomic_file(path) as temporary:
                shutil.copyfile(plan, temporary)
            kernels = Plan(plan, sidecar).read_kernels()
            if kernels:
                Plan(path, sealed).write_kernels(kernels)
            write_text(sidecar_path, sealed.to_json())
        return Plan(path, sealed)

    def timings(self, key: PlanKey, power_mode: str | None) -> Path:
        """Return where the timing cache lies of a TensorRT version on a device in a power mode."""
        names = ("gpu", "board", "multiprocessors", "memory_gib", "l4t")
        device = {name: getattr(key, name) for name in names} | {"power_mode": power_mode}
        name = f"timings-{key.tensorrt_version}-{key.sm}-{_sha256_of(device)[:8]}"
        return self.folder / f"{name}.cache"

    def sidecars(self) -> Iterator[Sidecar]:
        """Yield all that can be read, for reports."""
        for path in sorted(self.folder.glob("[!.]*.json")):
            try:
                yield read_sidecar(path)
            except EngineError:
                continue

    def nearest(self, keys: list[PlanKey]) -> str:
        """Say why none of `keys` was found: how the plan that comes nearest differs."""
        best: list[str] | None = None
        for sidecar in self.sidecars():
            for key in keys:
                same = ("architecture", "frames", "step", "refit")
                if all(getattr(sidecar.key, each) == getattr(key, each) for each in same):
                    differences = misfits(sidecar.key, key)
                    if best is None or len(differences) < len(best):
                        best = differences
        wanted = keys[0]
        of_a_stream = " of a stream" if wanted.step else ""
        start = f"no engine for {wanted.frames} frames{of_a_stream} was built"
        if best is None:
            return f"{start} in {self.folder}"
        return f"{start} that fits: the nearest is {' and '.join(best)}"

    def _paths(self, key: PlanKey) -> tuple[Path, Path]:
        return self.folder / f"{key.name}.plan", self.folder / f"{key.name}.json"


def read_sidecar(path: Path) -> Sidecar:
    """Read the file of a sidecar.

    Raises:
        EngineError: it is missing, cannot be read, or is damaged.
    """
    return _FORMAT.read(path, missing=f"{path}, the sidecar of a plan, is missing")


def _sha256_of(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise  # of whoever is told the progress
    except OSError as error:
        if error.filename and not str(error.filename).startswith(str(folder)):
            raise  # of another file
        raise EngineError(
            f"the cache {folder} cannot be written: {reason_of(error)}",
            "free space on the disk, or name another folder with --cache or FFN_EDGE_CACHE.",
        ) from error
