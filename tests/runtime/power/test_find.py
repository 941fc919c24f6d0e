"""Which meter is the best, and what is said where there is none."""

from __future__ import annotations

from typing import Any

import pytest

from ffn_edge.errors import SensorError
from ffn_edge.runtime.power import find
from ffn_edge.runtime.power.find import find_meters, open_meter


def test_the_sensor_of_the_board_goes_before_the_processor(orin_nx: Any) -> None:
    orin_nx.package("intel-rapl:0", "package-0", 1)
    assert open_meter(orin_nx.root).name == "INA"
    assert [*find_meters(orin_nx.root)] == ["INA", "RAPL"]


def test_the_processor_is_the_meter_of_a_pc(board: Any) -> None:
    board.package("intel-rapl:0", "package-0", 1)
    assert open_meter(board.root).name == "RAPL"


def test_a_graphics_card_counts_where_engines_run_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Card:
        name = "NVML"

        def __init__(self, gpu: str) -> None:
            self.scope = gpu

    monkeypatch.setattr(find, "NvmlMeter", Card)
    monkeypatch.setattr(find, "InaMeter", type("Ina", (), {"name": "INA", "__new__": absent}))
    monkeypatch.setattr(find, "RaplMeter", type("Rapl", (), {"name": "RAPL", "__new__": absent}))
    assert open_meter(gpu="GPU-1").scope == "GPU-1"
    assert open_meter().name == "none"
    assert [*find_meters()] == ["INA", "NVML", "RAPL"]


def test_engines_on_a_card_that_cannot_be_asked_have_no_meter(
    board: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.package("intel-rapl:0", "package-0", 1)
    monkeypatch.setattr(find, "ROOT", board.root)
    monkeypatch.setattr(find, "NvmlMeter", type("Card", (), {"name": "NVML", "__new__": absent}))
    meter = open_meter(board.root, gpu="0")  # the processor's counter knows nothing of the card
    assert meter.name == "none"
    with pytest.raises(SensorError, match="no INA power sensor; it is missing") as caught:
        meter.read(0.0)
    assert "add it." in caught.value.hint
    assert open_meter(board.root).name == "RAPL"


def absent(*_: object) -> None:
    raise SensorError("it is missing", "add it.")


def test_without_any_sensor_the_null_meter_says_why(board: Any) -> None:
    meter = open_meter(board.root)
    assert (meter.name, meter.scope) == ("none", "nothing")
    with pytest.raises(SensorError) as caught:
        meter.read(0.0)
    assert caught.value.message == (
        "no power can be measured here: there is no INA power sensor; there is no energy counter "
        "of an x86 processor (RAPL)"
    )
    assert "modprobe" in caught.value.hint
    meter.close()


def test_a_null_meter_that_is_read_for_ever_gathers_nothing(board: Any) -> None:
    meter = open_meter(board.root)
    lengths = []
    for _ in range(3):
        with pytest.raises(SensorError) as caught:
            meter.read(0.0)
        lengths.append(len(caught.traceback))
    assert len(set(lengths)) == 1
