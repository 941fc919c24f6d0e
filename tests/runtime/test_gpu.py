"""On a real GPU with TensorRT: the checks of `test_tensorrt`, as far as a real device can fail.

    python -m pytest -m gpu    # on a PC with PyTorch; on a Jetson:
    FFN_EDGE_TEST_BUNDLE=bundle python -m pytest --noconftest tests/runtime/test_gpu.py

Skipped without a device. Not yet run on one.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from ffn_edge.bundle.bundle import Bundle, Precision
from ffn_edge.bundle.known_answer import mean_of_steps
from ffn_edge.device.gpu import Device, find_gpu
from ffn_edge.device.plan_cache import PlanCache
from ffn_edge.device.tensorrt_api import Target, is_installed, load
from ffn_edge.errors import EngineError
from ffn_edge.export.tensorrt_plan import BuildOptions, build_plans
from ffn_edge.runtime.engines.engine import EngineOptions, open_engines
from ffn_edge.runtime.engines.tensorrt_group import prove

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def tested(request: pytest.FixtureRequest) -> Bundle:
    """The bundle that the user names, since a Jetson has no PyTorch to export one."""
    named = os.environ.get("FFN_EDGE_TEST_BUNDLE")
    bundle: Bundle = Bundle.load(named) if named else request.getfixturevalue("exported")
    return bundle


@pytest.fixture(scope="module")
def target() -> Target:
    """What is installed here; skips where nothing works."""
    try:
        find_gpu()
        found: Target = "tensorrt" if is_installed("tensorrt") else "rtx"
        load(found)
    except EngineError as error:
        pytest.skip(f"no GPU with TensorRT: {error.message}")
    return found


@pytest.fixture(scope="module", params=["fp16", "fp32"])
def options(
    request: pytest.FixtureRequest,
    target: Target,
    tested: Bundle,
    tmp_path_factory: pytest.TempPathFactory,
) -> EngineOptions:
    """Engines that were built here, in either precision, opened, refitted and tried."""
    folder = tmp_path_factory.mktemp("cache")
    choice = BuildOptions(target=target, precision=request.param)
    opened = functools.partial(prove, bundle=tested)
    for each in build_plans(tested, PlanCache(folder), choice, prove=opened):
        sidecar = each.plan.sidecar
        assert "REFIT_INDIVIDUAL" not in sidecar.flags  # for names that nobody knew
        print(f"{sidecar.key.name}: {sidecar.flags}, known clips off by {sidecar.deviation:.1e}")
    return EngineOptions(backend=target, cache=folder, precision=request.param)


def clip_of(bundle: Bundle, frames: int) -> np.ndarray:
    size = bundle.manifest.input.height
    return np.random.default_rng(frames).integers(0, 256, (1, frames, size, size, 3), np.uint8)


@pytest.mark.parametrize("resident", ["all", "one"])
def test_engines_give_what_onnx_runtime_gives(
    resident: str, options: EngineOptions, tested: Bundle
) -> None:
    chosen = EngineOptions(
        backend=options.backend,
        cache=options.cache,
        precision=options.precision,
        resident=resident,
    )
    with open_engines(tested, chosen) as engines:
        counts = tested.manifest.frame_counts
        for frames in (*counts, counts[0]):
            clip = clip_of(tested, frames)
            session = onnxruntime.InferenceSession(
                str(tested.graph_path(frames)), providers=["CPUExecutionProvider"]
            )
            expected = session.run(None, {"frames": clip})[0]
            logits = engines[frames].infer(clip)
            # TF32 and float16 both have ten bits of mantissa.
            assert np.abs(logits - expected).max() < 2e-2 * np.abs(expected).max()
            device_ms = engines[frames].device_ms
            assert device_ms is not None
            assert device_ms > 0


def test_a_ring_on_the_device_gives_what_the_host_gives(
    options: EngineOptions, tested: Bundle
) -> None:
    most = max(tested.manifest.frame_counts)
    clip = clip_of(tested, most)
    with open_engines(tested, options) as engines:
        assert engines.new_ring is not None
        expected = engines[most].infer(clip)
        with engines.new_ring(most + 2) as ring:
            for row in range(most):
                ring.store(row + 2, clip[0, row])
            for _ in range(2):
                placed = ring.gather(np.arange(2, most + 2))
                assert np.array_equal(engines[most].infer(placed), expected)


def test_closing_gives_the_device_memory_back(options: EngineOptions, tested: Bundle) -> None:
    def free_bytes() -> int:
        import pycuda.driver

        with Device():
            return int(pycuda.driver.mem_get_info()[0])

    with open_engines(tested, options):  # libraries load for the first time, and stay
        pass
    before = free_bytes()
    for _ in range(3):
        with open_engines(tested, options):
            pass
    assert free_bytes() >= before - (8 << 20)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_steps_of_a_stream_are_its_clips(
    precision: Precision, target: Target, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    named = os.environ.get("FFN_EDGE_TEST_BUNDLE")
    bundle = Bundle.load(named) if named else request.getfixturevalue("exported_causal")
    if not bundle.manifest.causal:
        pytest.skip("the bundle's network looks into the future")
    choice = BuildOptions(target=target, precision=precision, stream=True)
    opened = functools.partial(prove, bundle=bundle)
    build_plans(bundle, PlanCache(tmp_path), choice, prove=opened)
    options = EngineOptions(backend=target, cache=tmp_path, precision=precision, stream=True)
    with open_engines(bundle, options) as engines:
        for frames, engine in engines.items():
            clip = clip_of(bundle, frames)
            session = onnxruntime.InferenceSession(
                str(bundle.graph_path(frames)), providers=["CPUExecutionProvider"]
            )
            expected = session.run(None, {"frames": clip})[0]
            assert (
                np.abs(mean_of_steps(engine.infer, clip) - expected).max()
                < 2e-2 * np.abs(expected).max()
            )
            kept = engine.state()
            again = engine.infer(clip[:, :1])
            engine.restart(kept)
            assert np.array_equal(engine.infer(clip[:, :1]), again)
