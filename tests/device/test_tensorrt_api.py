"""One door to TensorRT: what is missing, broken or too old is an error with a remedy."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from ffn_edge.device.tensorrt_api import Target, is_installed, is_out_of_memory, load
from ffn_edge.errors import EngineError


@pytest.fixture(autouse=True)
def forget_tensorrt() -> Iterator[None]:
    """Each test loads TensorRT anew."""
    load.cache_clear()
    yield
    load.cache_clear()


@pytest.mark.parametrize("target", ["tensorrt", "rtx"])
def test_what_is_not_installed_is_named_with_the_command_that_installs_it(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}[target]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EngineError, match=f"{module} cannot be imported") as caught:
        load(target)
    assert "pip install" in caught.value.hint


@pytest.mark.parametrize(
    "failure", ["OSError('libnvinfer.so.10: cannot open')", "RuntimeError('no driver')"]
)
def test_libraries_that_fail_to_load_are_no_traceback(
    failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text(f"raise {failure}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    assert is_installed("tensorrt")
    with pytest.raises(EngineError, match="cannot be imported"):
        load("tensorrt")


@pytest.mark.parametrize("version", ["8.6.2.3", "10.2.0"])
def test_a_version_without_what_an_engine_needs_is_refused(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = ModuleType("tensorrt")
    old.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(EngineError, match=f"TensorRT {version} is too old") as caught:
        load("tensorrt")
    assert "JetPack 6.1" in caught.value.hint


@pytest.mark.parametrize(
    ("said", "out_of_memory"),
    [
        ("Error Code 2: OutOfMemory (Requested size was 2097152 bytes.)", True),
        ("Error Code 1: Cuda Runtime (out of memory)", True),
        ("Tactic Device request: 99MB. Device memory is insufficient to use tactic.", True),
        ("an illegal memory access was encountered", False),
        ("", False),
    ],
)
def test_too_little_memory_is_told_from_memory_misused(said: str, out_of_memory: bool) -> None:
    assert is_out_of_memory(said) == out_of_memory


def test_the_real_rtx_loads_and_its_errors_are_kept_until_they_are_asked_for() -> None:
    api = load("rtx")
    assert api.plan_fits_any_gpu
    assert not api.keeps_timings
    assert api.module.Runtime(api.log).deserialize_cuda_engine(b"no plan") is None
    assert "readHeader" in api.errors()
    assert api.errors() == ""
    assert load("rtx") is api
