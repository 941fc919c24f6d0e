"""The precision of each frame count: chosen by a pure function, and by what is known here."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from ffn_edge.bundle.bundle import Accuracy, Bundle, Precision, Quantized, SubNetwork
from ffn_edge.errors import EngineError
from ffn_edge.runtime.engines import engine as engine_module
from ffn_edge.runtime.engines.engine import EngineOptions, cpu_backend, open_engines
from ffn_edge.runtime.engines.onnxruntime import OnnxRuntimeEngine
from ffn_edge.runtime.power.meter import NullMeter
from ffn_edge.runtime.profile import setting as setting_module
from ffn_edge.runtime.profile.precision import choose_precision
from ffn_edge.runtime.profile.profile import (
    PROFILE,
    Latency,
    load_profile,
    profile_bundle,
    save_profile,
)
from ffn_edge.runtime.profile.setting import PrecisionChooser, learn_setting

OPTIONS = EngineOptions(backend="onnxruntime", threads=1)
Quantize = Callable[[dict[int, float]], Bundle]


def sub_network(
    *, lost: float | None = None, agreement: float = 1.0, clips: int = 600
) -> SubNetwork:
    """A frame count of 600 clips; what INT8 loses is not known without labels."""
    accuracy = Accuracy(top1=0.945, top5=1.0, clips=600)
    int8 = Quantized(
        graph="g.int8.onnx",
        method="max",
        calibrated_on=256,
        agreement=agreement,
        compared_on=clips,
        accuracy=None if lost is None else Accuracy(top1=0.945 - lost, top5=1.0, clips=600),
        accuracy_float32=None if lost is None else accuracy,
        deviation=0.02,
        in_float32={},
    )
    return SubNetwork(graph="g.onnx", composed_sha256="", macs=1, accuracy=accuracy, int8=int8)


ALL: tuple[Precision, ...] = ("fp16", "fp32", "int8")
CPU: tuple[Precision, ...] = ("fp32", "int8")


@pytest.mark.parametrize(
    ("found", "existing", "latencies_ms", "reason"),
    [
        (
            sub_network(lost=0.002),
            CPU,
            {"fp32": 114.0, "int8": 44.0},
            "8 frames in int8: 44 ms against 114 in fp32 and it lost 0.2 points on 600 clips",
        ),
        (
            sub_network(lost=0.945 - 0.94),  # 3 of 600 clips: more than 0.005 by rounding alone
            CPU,
            {"fp32": 114.0, "int8": 44.0},
            "8 frames in int8: 44 ms against 114 in fp32 and it lost 0.5 points on 600 clips",
        ),
        (
            sub_network(lost=-0.01),
            CPU,
            {"fp32": 114.0, "int8": 44.0},
            "8 frames in int8: 44 ms against 114 in fp32 and it lost nothing on 600 clips",
        ),
        (
            sub_network(agreement=1.0),  # of clips without labels
            CPU,
            {},
            "8 frames in fp32: int8 loses what no labels have shown: "
            "ffn-edge verify --precision int8 --labels",
        ),
        (
            sub_network(lost=0.0, clips=127),
            CPU,
            {},
            "8 frames in fp32: int8 was measured on 127 clips, and 128 are the least",
        ),
        (
            sub_network(lost=0.002),
            CPU,
            {"fp32": 58.0, "int8": 61.0},
            "8 frames in fp32: 58 ms against 61 in int8",
        ),
        (
            sub_network(lost=0.002),
            CPU,
            {"fp32": 58.0, "int8": 58.0},
            "8 frames in fp32: 58 ms against 58 in int8",
        ),
        (
            sub_network(lost=0.008),
            CPU,
            {},
            "8 frames in fp32: int8 lost 0.8 points on 600 clips, more than 0.5",
        ),
        (
            sub_network(lost=0.002),
            ALL,
            {"fp32": 9.0, "fp16": 5.0, "int8": 6.0},
            "8 frames in fp16: 5 ms against 9 in fp32, 6 in int8",
        ),
        (
            sub_network(lost=0.008),
            ALL,
            {"fp32": 9.0, "fp16": 5.0, "int8": 3.0},
            "8 frames in fp16: 5 ms against 9 in fp32 and int8 lost 0.8 points on 600 clips, "
            "more than 0.5",
        ),
        (
            sub_network(lost=0.002),
            ("int8", "fp16"),
            {"fp16": 5.0, "int8": 3.0},
            "8 frames in int8: 3 ms against 5 in fp16 and it lost 0.2 points on 600 clips",
        ),
        (sub_network(lost=0.002), ("fp32",), {}, "8 frames in fp32: nothing else is there"),
        (
            sub_network(lost=0.005),
            ("int8",),
            {},
            "8 frames in int8: it lost 0.5 points on 600 clips",
        ),
        (  # int8 was measured, and failed
            sub_network(lost=0.002),
            ALL,
            {"fp32": 9.0, "fp16": 5.0},
            "8 frames in fp16: 5 ms against 9 in fp32",
        ),
    ],
)
def test_the_fastest_is_chosen_of_those_that_are_accurate(
    found: SubNetwork,
    existing: tuple[Precision, ...],
    latencies_ms: dict[Precision, float],
    reason: str,
) -> None:
    choice = choose_precision(8, found, existing, latencies_ms)
    assert choice.reason == reason
    assert reason.startswith(f"8 frames in {choice.precision}:")


def test_int8_that_loses_too_much_is_not_chosen_even_alone() -> None:
    with pytest.raises(EngineError, match="int8 lost 2 points") as caught:
        choose_precision(8, sub_network(lost=0.02), ("int8",), {})
    assert "--precision int8" in caught.value.hint


def test_a_profile_has_each_precision_and_is_read_back(quantize: Quantize) -> None:
    bundle = quantize({2: 0.0, 4: 0.0})
    told: list[tuple[int, int]] = []
    written = profile_bundle(bundle, OPTIONS, runs=2, on_round=lambda *done: told.append(done))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    figures = json.loads((bundle.path / PROFILE).read_text())
    for table in ("latency_ms", "power_w", "energy_j"):
        assert {precision: set(each) for precision, each in figures[table].items()} == {
            "fp32": {"2", "4"},
            "int8": {"2", "4"},
        }
    read = load_profile(bundle.path)
    assert read is not None
    assert read.latencies.keys() == written.latencies.keys()
    alone = profile_bundle(bundle, EngineOptions(precision="int8", threads=1), runs=2)
    assert {p: list(each) for p, each in alone.latencies.items()} == {"int8": [2, 4]}


def measured(bundle: Bundle, latencies: dict[Precision, dict[int, float]]) -> None:
    """Write a profile."""
    save_profile(
        bundle,
        cpu_backend(1),
        {
            precision: {frames: Latency((ms,)) for frames, ms in each.items()}
            for precision, each in latencies.items()
        },
    )


def test_each_frame_count_opens_in_what_the_profile_says_is_fastest(
    quantize: Quantize, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: object, **__: object) -> None:
        raise AssertionError("there is a profile")

    monkeypatch.setattr(setting_module, "profile_undisturbed", measure)
    caplog.set_level("INFO")
    bundle = quantize({2: 0.0, 4: 0.002})
    measured(bundle, {"fp32": {2: 1.0, 4: 4.0}, "int8": {2: 2.0, 4: 3.0}})
    chooser = PrecisionChooser(bundle, OPTIONS)
    with open_engines(bundle, OPTIONS, precisions=chooser) as engines:
        setting = learn_setting(bundle, engines, NullMeter({}), chooser=chooser)
        assert engines.precisions == {2: "fp32", 4: "int8"}
        assert "in fp32 at 2 and int8 at 4 frames on CPU" in engines.in_words
    assert [(p.frames, p.precision, p.base_ms, p.accuracy) for p in setting.points] == [
        (2, "fp32", 1.0, 0.8),
        (4, "int8", 3.0, pytest.approx(0.798)),
    ]
    assert [message.split(":")[0] for message in caplog.messages] == [
        "2 frames in fp32",
        "4 frames in int8",
    ]


def test_without_a_profile_the_candidates_alone_are_measured(
    quantize: Quantize, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[int, Precision]] = []

    def measure(engines: object, *_: object, **__: object) -> tuple[dict[int, Latency], None]:
        precisions: dict[int, Precision] = engines.precisions  # type: ignore[attr-defined]
        seen.append(precisions)
        slow = {"fp32": 2.0, "int8": 1.0}
        return {t: Latency((slow[each],)) for t, each in precisions.items()}, None

    monkeypatch.setattr(setting_module, "profile_undisturbed", measure)
    bundle = quantize({2: 0.02, 4: 0.0})
    chooser = PrecisionChooser(bundle, OPTIONS)
    with open_engines(bundle, OPTIONS, precisions=chooser) as engines:
        setting = learn_setting(bundle, engines, NullMeter({}), chooser=chooser)
    assert seen == [{2: "fp32", 4: "fp32"}, {4: "int8"}]
    assert [(p.precision, p.base_ms) for p in setting.points] == [("fp32", 2.0), ("int8", 1.0)]


def test_a_profile_that_lacks_a_precision_does_not_choose(
    quantize: Quantize, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    bundle = quantize({2: 0.0, 4: 0.0})
    measured(bundle, {"fp32": {2: 1.0, 4: 4.0}})
    with open_engines(bundle, OPTIONS, precisions=PrecisionChooser(bundle, OPTIONS)):
        pass
    assert "the profile lacks 2, 4 frames in int8; measuring quickly" in caplog.messages[0]


def test_a_precision_that_fails_is_left_out_with_a_warning(
    quantize: Quantize, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: bytes) -> bytes:
        raise EngineError("the device failed", "restart it.")

    monkeypatch.setattr(engine_module, "for_onnxruntime", fail)
    bundle = quantize({2: 0.0, 4: 0.0})
    with open_engines(bundle, OPTIONS, precisions=PrecisionChooser(bundle, OPTIONS)) as engines:
        assert set(engines.precisions.values()) == {"fp32"}
    assert profile_bundle(bundle, OPTIONS, runs=1).latencies.keys() == {"fp32"}
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "the device failed" in caplog.text


def test_where_every_precision_fails_its_error_is_told(
    quantize: Quantize, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise EngineError("the device failed", "restart it.")

    monkeypatch.setattr(OnnxRuntimeEngine, "__enter__", fail)
    bundle = quantize({2: 0.0, 4: 0.0})
    with (
        pytest.raises(EngineError, match="the device failed"),
        open_engines(bundle, OPTIONS, precisions=PrecisionChooser(bundle, OPTIONS)),
    ):
        pass


def test_a_precision_that_was_asked_for_is_not_chosen(quantize: Quantize) -> None:
    bundle = quantize({2: 0.02, 4: 0.02})
    options = EngineOptions(precision="int8", threads=1)
    chooser = PrecisionChooser(bundle, options)
    with open_engines(bundle, options, precisions=chooser) as engines:
        assert engines.precisions == {2: "int8", 4: "int8"}


def test_what_opens_engines_by_itself_gets_float32(quantize: Quantize) -> None:
    with open_engines(quantize({2: 0.0, 4: 0.0}), OPTIONS) as engines:
        assert engines.precisions == {2: "fp32", 4: "fp32"}
