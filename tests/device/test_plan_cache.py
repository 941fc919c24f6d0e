"""The cache of plans: found by what they depend on, whole or refused, built by one at a time."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from ffn_edge.bundle.bundle import Bundle, FileRecord
from ffn_edge.device.gpu import Gpu
from ffn_edge.device.plan_cache import (
    Plan,
    PlanCache,
    PlanKey,
    PlanWeight,
    Sidecar,
    default_folder,
    misfits,
    plan_key,
)
from ffn_edge.device.tensorrt_api import Api
from ffn_edge.errors import EngineError

KEY = PlanKey(
    target="tensorrt",
    tensorrt_version="10.3.0",
    sm="87",
    gpu="Orin",
    board="NVIDIA Jetson Orin Nano Developer Kit",
    multiprocessors=8,
    memory_gib=8,
    l4t="36.4.3",
    precision="fp16",
    refit="identical",
    architecture="tsm_tiny",
    frames=4,
    graph_sha256="a" * 64,
    composed_sha256="b" * 64,
)
CONSTANT = PlanWeight(
    name="scale", dtype="float32", count=2, source="constant", values=(0.1, 1e-30)
)


def store(cache: PlanCache, key: PlanKey = KEY, data: bytes = b"plan") -> Plan:
    sidecar = Sidecar(
        key=key,
        flags=("STRIP_PLAN",),
        weights=(CONSTANT,),
        plan=FileRecord(bytes=0, sha256=""),
        power_mode="15W",
        deviation=2e-4,
        build_seconds=1.25,
        created="2026-01-01T00:00:00+00:00",
        producer="ffn-edge",
    )
    with cache.lock(), cache.workplace() as folder:
        (folder / "plan").write_bytes(data)
        return cache.store(sidecar, folder / "plan")


@pytest.fixture
def cache(tmp_path: Path) -> PlanCache:
    return PlanCache(tmp_path / "cache")


def test_what_was_stored_is_found_again_value_for_value(cache: PlanCache) -> None:
    stored = store(cache)

    found = PlanCache(cache.folder).find(KEY)

    assert found == stored
    assert found is not None
    assert found.read() == b"plan"
    assert found.sidecar.weights == (CONSTANT,)
    left = sorted(path.suffix for path in cache.folder.iterdir())
    assert left == ["", ".json", ".plan"]  # the lock, and nothing of the build


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(PlanKey)])
def test_a_plan_is_found_only_by_all_that_it_depends_on(field: str, cache: PlanCache) -> None:
    store(cache)
    other = dataclasses.replace(KEY, **{field: 8 if field in ("frames", "recipe") else "other"})

    assert cache.find(other) is None
    assert len(misfits(KEY, other)) == 1
    assert misfits(KEY, KEY) == []


def test_an_empty_cache_finds_nothing_and_makes_nothing(cache: PlanCache) -> None:
    assert cache.find(KEY) is None
    assert list(cache.sidecars()) == []
    assert not cache.folder.exists()


def empty(plan: Path, sidecar: Path) -> None:
    plan.write_bytes(b"")


def truncate(plan: Path, sidecar: Path) -> None:
    plan.write_bytes(plan.read_bytes()[:-1])


def alter(plan: Path, sidecar: Path) -> None:
    plan.write_bytes(b"PLAN")


def remove_plan(plan: Path, sidecar: Path) -> None:
    plan.unlink()


def remove_sidecar(plan: Path, sidecar: Path) -> None:
    sidecar.unlink()


def edit(plan: Path, sidecar: Path) -> None:
    sidecar.write_text(sidecar.read_text().replace('"sm": "87"', '"sm": "110"'))


def drop_a_field(plan: Path, sidecar: Path) -> None:
    fields = json.loads(sidecar.read_text())
    del fields["deviation"]
    sidecar.write_text(json.dumps(fields))


def garble(plan: Path, sidecar: Path) -> None:
    sidecar.write_bytes(b"\xff\xfe\x00")


def another_schema(plan: Path, sidecar: Path) -> None:
    sidecar.write_text(sidecar.read_text().replace('"schema_version": 2', '"schema_version": 9', 1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (empty, "has 0 bytes"),
        (truncate, "has 3 bytes; the manifest says 4"),
        (alter, "was altered"),
        (remove_plan, "is missing"),
        (remove_sidecar, "the sidecar of a plan, is missing"),
        (edit, "another plan"),
        (drop_a_field, "deviation is missing"),
        (garble, "no text"),
        (another_schema, "schema version 9; this release reads 2"),
    ],
)
def test_a_damaged_plan_is_refused_before_tensorrt_sees_it(
    damage: Callable[[Path, Path], None], message: str, cache: PlanCache
) -> None:
    path = store(cache).path
    damage(path, path.with_suffix(".json"))

    with pytest.raises(EngineError, match=message) as caught:
        cache.find(KEY)

    assert "ffn-edge build" in caught.value.hint


def test_a_sidecar_under_another_name_is_refused(cache: PlanCache) -> None:
    path = store(cache).path
    other = dataclasses.replace(KEY, tensorrt_version="10.13.3")
    path.rename(cache.folder / f"{other.name}.plan")
    path.with_suffix(".json").rename(cache.folder / f"{other.name}.json")

    with pytest.raises(EngineError, match="belongs to another plan"):
        cache.find(other)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tensorrt_version": "10.13.3"}, "of TensorRT 10.3.0; this is 10.13.3"),
        ({"sm": "110"}, "for a GPU of SM 87; this one has SM 110"),
        ({"gpu": "AGX Orin"}, "for Orin; this is AGX Orin"),
        ({"board": None}, "for the board NVIDIA Jetson Orin Nano Developer Kit"),
        ({"multiprocessors": 16}, "of 8 multiprocessors; this one has 16"),
        ({"memory_gib": 16}, "at most 8 GiB"),
        ({"recipe": 0}, "of another release of ffn-edge"),
        ({"l4t": "38.2"}, "of L4T 36.4.3; this is 38.2"),
        ({"precision": "fp32"}, "in fp16, not fp32"),
        ({"graph_sha256": "c" * 64}, "the bundle was exported anew since"),
        ({"composed_sha256": "c" * 64}, "--refit any"),
        ({"target": "rtx"}, "for tensorrt, not rtx"),
        ({"frames": 8}, "no engine for 8 frames was built in"),
        ({"architecture": "tsm_resnet50"}, "no engine for 4 frames was built in"),
    ],
)
def test_what_comes_nearest_says_why_it_does_not_fit(
    changes: dict[str, object], said: str, cache: PlanCache
) -> None:
    store(cache)
    store(cache, dataclasses.replace(KEY, tensorrt_version="8.6.1", sm="53"))

    assert said in cache.nearest([dataclasses.replace(KEY, **changes)])


def test_plans_with_their_weights_inside_say_that_those_changed(cache: PlanCache) -> None:
    store(cache, dataclasses.replace(KEY, refit="none"))
    wanted = dataclasses.replace(KEY, composed_sha256="c" * 64)
    keys = [dataclasses.replace(wanted, refit=refit) for refit in ("identical", "none")]
    assert "of other weights" in cache.nearest(keys)


def test_what_a_killed_build_left_is_never_read_and_goes_with_the_next(cache: PlanCache) -> None:
    stored = store(cache)
    sidecar = stored.path.with_suffix(".json").read_text()
    half = cache.folder / ".unfinished-0123abcd.json"
    half.write_text(sidecar)
    (cache.folder / ".build-1").mkdir()
    assert len(list(cache.sidecars())) == 1
    assert store(cache) == stored
    with cache.lock():
        pass
    assert {path.suffix for path in cache.folder.iterdir()} == {".plan", ".json", ""}
    assert cache.find(KEY) == stored


def test_an_error_elsewhere_is_not_blamed_on_the_cache(cache: PlanCache, tmp_path: Path) -> None:
    with cache.lock(), pytest.raises(FileNotFoundError), cache.workplace():
        (tmp_path / "bundle.onnx").read_bytes()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(EngineError, match="cannot be written") as caught,
        PlanCache(tmp_path / "file").lock(),
    ):
        pass
    assert "--cache" in caught.value.hint


def test_a_second_build_waits_for_the_first(cache: PlanCache) -> None:
    waited = threading.Event()
    order: list[str] = []

    def second() -> None:
        with PlanCache(cache.folder).lock(waited.set):
            order.append("second")

    thread = threading.Thread(target=second)
    with cache.lock():
        thread.start()
        assert waited.wait(timeout=10)
        order.append("first")
    thread.join(timeout=10)

    assert order == ["first", "second"]


_HOLDS_THE_LOCK = """
import sys, time
from pathlib import Path
from ffn_edge.device.plan_cache import PlanCache
cache = PlanCache(Path(sys.argv[1]))
with cache.lock(), cache.workplace() as folder:
    (folder / "half.plan").write_bytes(b"half")
    print("building", flush=True)
    time.sleep(60)
"""


def test_a_build_that_is_killed_leaves_neither_a_lock_nor_a_half_plan(cache: PlanCache) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDS_THE_LOCK, str(cache.folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process, process.stdout:
        assert process.stdout.readline() == "building\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
        assert list(cache.folder.glob(".build-*/half.plan"))
        start = time.monotonic()
        stored = store(cache)
        assert time.monotonic() - start < 10

    assert cache.find(KEY) == stored
    assert not list(cache.folder.glob(".build-*"))


def test_the_default_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("FFN_EDGE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "ffn-edge"
    monkeypatch.setenv("FFN_EDGE_CACHE", str(tmp_path / "mine"))
    assert default_folder() == tmp_path / "mine"


ORIN = {"name": "Orin", "sm": "87"}  # CUDA's words for each of the modules


@pytest.mark.parametrize(
    "other",
    [
        Gpu(**ORIN, memory_bytes=7_987_728_384, multiprocessors=4),
        Gpu(**ORIN, memory_bytes=16_136_011_776, multiprocessors=8),
        Gpu(**ORIN, memory_bytes=65_893_089_280, multiprocessors=16),
    ],
)
def test_a_plan_of_another_module_of_the_same_name_is_not_found(
    other: Gpu, exported: Bundle
) -> None:
    nano = Gpu(**ORIN, memory_bytes=7_987_728_384, multiprocessors=8)
    assert key_of(other, exported).name != key_of(nano, exported).name


def test_a_plan_of_another_board_with_the_same_gpu_is_not_found(
    exported: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu(**ORIN, memory_bytes=7_987_728_384, multiprocessors=8)
    names = set()
    for model in ("NVIDIA Jetson Orin NX Developer Kit", "NVIDIA Jetson Orin Nano Developer Kit"):
        monkeypatch.setattr(
            "ffn_edge.device.plan_cache.board_model", lambda root, model=model: model
        )
        names.add(key_of(gpu, exported).name)
    assert len(names) == 2


def test_memory_that_the_system_keeps_to_itself_makes_no_other_device(exported: Bundle) -> None:
    names = {
        key_of(Gpu(**ORIN, memory_bytes=size, multiprocessors=8), exported).name
        for size in (7_900_000_000, 7_987_728_384, 8 << 30)
    }
    assert len(names) == 1


def key_of(gpu: Gpu, bundle: Bundle) -> PlanKey:
    api = Api("tensorrt", ModuleType("tensorrt"), "10.3.0", None)
    return plan_key(api, gpu, bundle, 4, "fp16", "identical")


@pytest.mark.parametrize(("now", "differs"), [("15W", False), ("MAXN_SUPER", True), (None, False)])
def test_a_plan_knows_the_power_mode_that_it_was_tuned_in(
    now: str | None, differs: bool, cache: PlanCache
) -> None:
    assert bool(store(cache).sidecar.built_in_another_mode(now)) == differs


def test_measurements_of_another_device_or_power_mode_are_not_used(cache: PlanCache) -> None:
    others = [
        dataclasses.replace(KEY, **{name: value})
        for name, value in {"multiprocessors": 16, "board": None, "memory_gib": 16}.items()
    ]
    paths = [cache.timings(KEY, "15W"), cache.timings(KEY, "25W")]
    paths += [cache.timings(other, "15W") for other in others]
    assert len(set(paths)) == len(paths)
    assert cache.timings(dataclasses.replace(KEY, frames=8), "15W") == paths[0]
