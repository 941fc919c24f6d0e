"""`ffn-edge power` on copied trees."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner

from ffn_edge.commands.power import power
from ffn_edge.runtime.power.meter import PowerReading
from ffn_edge.runtime.power.watch import Watched


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(power, list(map(str, arguments)), env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    return result.output


def test_the_table_shows_every_rail_with_what_it_covers(orin_nx: Any) -> None:
    orin_nx.write("sys/class/thermal/thermal_zone0/type", "gpu-thermal")
    orin_nx.write("sys/class/thermal/thermal_zone0/temp", 48250)
    orin_nx.write("sys/class/thermal/thermal_zone0/trip_point_0_type", "critical")
    orin_nx.write("sys/class/thermal/thermal_zone0/trip_point_0_temp", 104500)
    shown = invoke("--root", orin_nx.root, "--seconds", 0.2)
    for text in (
        "used: module input (VDD_IN)",
        "VDD_CPU_GPU_CV",
        "CPU, GPU and accelerators together",
        "4.000 W",
        "10.000 W",
        "no energy counter of an x86",
        "modprobe",
        "gpu-thermal 48.2 °C of 104.5",
        "56.2 °C",
    ):
        assert text in shown


def test_without_a_sensor_the_answer_is_how_to_get_one(board: Any) -> None:
    shown = invoke("--root", board.root)
    assert "there is no INA power sensor" in shown
    assert "Remedy: " in shown
    assert "power over" not in shown
    assert "missed" not in shown


def test_json_is_one_object(orin_nx: Any) -> None:
    fields = json.loads(invoke("--root", orin_nx.root, "--seconds", 0.2, "--json"))
    assert fields["used"] == "INA"
    (meter,) = fields["meters"]
    assert meter["mean_w"] == pytest.approx(10.0)
    assert meter["rails"]["VDD_SOC"] == {"mean_w": pytest.approx(2.0), "max_w": pytest.approx(2.0)}
    assert meter["energy_j"] > 0
    assert meter["fault"] is None
    assert (meter["gap_s"], meter["ignored"], meter["failed"]) == (0.0, 0, 0)
    assert fields["missed"] >= 0
    assert fields["latest_ms"] >= fields["late_ms"]
    assert "message" in fields["missing"]["RAPL"]
    assert fields["health"]["over_current_events"] is None
    assert (fields["health"]["headroom_c"], fields["health"]["trips_c"]) == (None, {})


def test_how_the_sensor_averages_is_told(orin_nx: Any) -> None:
    fields = json.loads(invoke("--root", orin_nx.root, "--seconds", 0.1, "--json"))
    assert (fields["meters"][0]["samples"], fields["meters"][0]["update_interval_ms"]) == (
        None,
        None,
    )
    folder = orin_nx.root / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
    orin_nx.averages(folder, 512, 430)
    fields = json.loads(invoke("--root", orin_nx.root, "--seconds", 0.1, "--json"))
    assert (fields["meters"][0]["samples"], fields["meters"][0]["update_interval_ms"]) == (512, 430)
    shown = " ".join(invoke("--root", orin_nx.root, "--seconds", 0.1).split())
    assert "module input (VDD_IN), mean of 512 samples, a value each 430 ms" in shown


def test_a_meter_that_fails_while_it_is_watched_is_told(orin_nx: Any) -> None:
    (orin_nx.root / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/in1_input").write_text("?")
    fields = json.loads(invoke("--root", orin_nx.root, "--seconds", 0.1, "--json"))
    assert "holds no number" in fields["meters"][0]["fault"]
    assert fields["meters"][0]["failed"] > 0
    shown = invoke("--root", orin_nx.root, "--seconds", 0.1)
    assert "holds no number" in shown
    assert re.search(r"0 readings ignored, [1-9]\d* failed", shown)


def test_a_spike_is_not_the_highest_power() -> None:
    class Spiking:
        name = scope = "a test"
        watts = iter((5.0, 3000.0, 6.0))

        def read(self, now: float) -> PowerReading:
            """Give the next."""
            watts = next(self.watts)
            return PowerReading(time_s=now, total_w=watts, rails_w={"A": watts})

        def close(self) -> None:
            """Nothing is held."""

    watched = Watched(Spiking())
    for now in (0.0, 0.1, 0.2):
        watched.sample(now)
    assert (watched.total.highest, watched.rails["A"].highest) == (6.0, 6.0)
    assert (watched.rails["A"].mean, watched.mean_w) == (5.5, pytest.approx(5.5))


def test_watching_shows_a_live_table_and_ends_by_itself(orin_nx: Any) -> None:
    assert "VDD_SOC" in invoke("--root", orin_nx.root, "--watch", "--seconds", 0.1)


def test_watching_ends_in_order_at_ctrl_c(orin_nx: Any) -> None:
    command = [sys.executable, "-m", "ffn_edge", "power", "--watch", "--json", "--root"]
    process = subprocess.Popen(
        [*command, str(orin_nx.root)], stdout=subprocess.PIPE, env=os.environ, text=True
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    lines = [json.loads(line) for line in (first, *rest.splitlines())]
    assert lines[-1]["seconds"] > lines[0]["seconds"]
    assert lines[-1]["meters"][0]["energy_j"] > lines[0]["meters"][0]["energy_j"]
