"""Profiles: how they are measured, kept, and distrusted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ffn_edge.bundle.bundle import Bundle, InputContract
from ffn_edge.errors import FfnEdgeError, SensorError
from ffn_edge.runtime.engines.engine import (
    EngineOptions,
    OpenEngines,
    cpu_backend,
    open_engines,
)
from ffn_edge.runtime.machine.machine import CardSetting, ClockRange, Clocks
from ffn_edge.runtime.power.meter import Averaging, Meter, NullMeter, PowerReading
from ffn_edge.runtime.profile import conditions as conditions_module
from ffn_edge.runtime.profile import power as power_profile
from ffn_edge.runtime.profile import profile as profile_module
from ffn_edge.runtime.profile.power import PowerProfile
from ffn_edge.runtime.profile.profile import (
    PROFILE,
    Conditions,
    Latency,
    Moment,
    Profile,
    conditions_now,
    disturbance,
    load_profile,
    profile_bundle,
    profile_engines,
    profile_undisturbed,
    save_profile,
)
from ffn_edge.runtime.profile.setting import learn_setting

CONTRACT = InputContract(batch=1, height=4, width=4, short_side=4, mean=(0.0,) * 3, std=(1.0,) * 3)


class RecordingEngine:
    """Notes the shapes that all engines got, in their order."""

    def __init__(self, frames: int, calls: list[tuple[int, ...]]) -> None:
        self.frames = frames
        self.calls = calls

    def infer(self, frames: np.ndarray) -> np.ndarray:  # noqa: D102
        self.calls.append(frames.shape)
        return np.zeros((1, 3), np.float32)


def test_the_engines_take_turns_and_the_warm_up_is_not_counted() -> None:
    calls: list[tuple[int, ...]] = []
    engines = {t: RecordingEngine(t, calls) for t in (2, 4)}
    latencies = profile_engines(engines, CONTRACT, runs=3, warm_up=1)  # type: ignore[arg-type]
    assert calls == [(1, t, 4, 4, 3) for _ in range(4) for t in (2, 4)]
    assert {t: len(latency.samples_ms) for t, latency in latencies.items()} == {2: 3, 4: 3}


def test_engines_whose_switch_costs_something_come_one_after_the_other() -> None:
    calls: list[tuple[int, ...]] = []
    engines = {t: RecordingEngine(t, calls) for t in (2, 4)}
    latencies = profile_engines(
        engines,  # type: ignore[arg-type]
        CONTRACT,
        runs=3,
        warm_up=1,
        by_turns=False,
    )
    assert calls == [(1, t, 4, 4, 3) for t in (2, 4) for _ in range(4)]
    assert {t: len(latency.samples_ms) for t, latency in latencies.items()} == {2: 3, 4: 3}


@pytest.mark.parametrize("by_turns", [True, False])
def test_progress_is_told_and_reaches_the_number_of_runs(by_turns: bool) -> None:
    rounds: list[int] = []
    engines = {t: RecordingEngine(t, []) for t in (2, 4)}
    profile_engines(
        engines,  # type: ignore[arg-type]
        CONTRACT,
        runs=3,
        by_turns=by_turns,
        on_round=rounds.append,
    )
    assert rounds == [1, 2, 3]


def test_the_figures_of_a_latency() -> None:
    latency = Latency(tuple(float(ms) for ms in range(1, 102)))
    assert latency.summary() == {
        "p50": 51.0,
        "p90": 91.0,
        "p95": 96.0,
        "p99": 100.0,
        "mean": 51.0,
        "min": 1.0,
        "max": 101.0,
    }


def test_no_runs_are_refused() -> None:
    with pytest.raises(FfnEdgeError, match="at least one run"):
        profile_engines({2: RecordingEngine(2, [])}, CONTRACT, runs=0)  # type: ignore[arg-type]


POWER = PowerProfile(
    meter="INA3221",
    scope="module input",
    idle_w=4.5,
    above_idle_w={"fp32": {2: 1.0, 4: 2.5, 8: 0.0}},
)
LATENCIES = {2: Latency((1.0, 2.0)), 4: Latency((2.0, 4.0)), 8: Latency((4.0, 8.0))}
BEGIN = Moment(temperature_c=41.5, cpu_hz=1.5e9, gpu_hz=306e6, memory_hz=None)


def saved(bundle: Bundle, threads: int = 1) -> Profile:
    return save_profile(bundle, cpu_backend(threads), {"fp32": LATENCIES}, power=POWER, begin=BEGIN)


def test_a_profile_is_read_back_as_it_was_written(bundle: Bundle) -> None:
    written = saved(bundle)
    assert load_profile(bundle.path) == written
    assert written.power == POWER
    assert written.begin == BEGIN
    assert Bundle.load(bundle.path).identity == bundle.identity  # the bundle is still whole


def test_a_profile_without_power_says_why_and_is_read_back(bundle: Bundle) -> None:
    written = save_profile(bundle, cpu_backend(1), {"fp32": {2: Latency((1.0,))}})
    assert written.power.fault == "only latency was measured"
    assert written.energy_j("fp32", 2) is None
    assert load_profile(bundle.path) == written


def test_energy_is_power_times_the_median_latency(bundle: Bundle) -> None:
    profile = saved(bundle)
    assert [profile.energy_j("fp32", t) for t in (2, 4, 8)] == pytest.approx([1.5e-3, 7.5e-3, 0.0])
    written = json.loads((bundle.path / PROFILE).read_text())
    assert written["energy_j"]["fp32"] == pytest.approx({"2": 1.5e-3, "4": 7.5e-3, "8": 0.0})
    assert written["power_w"]["fp32"] == {"2": 1.0, "4": 2.5, "8": 0.0}
    assert written["idle_w"] == 4.5


def test_without_a_profile_there_is_none(bundle: Bundle) -> None:
    assert load_profile(bundle.path) is None


def test_a_profile_names_the_machine(bundle: Bundle) -> None:
    saved(bundle)
    conditions = json.loads((bundle.path / PROFILE).read_text())["conditions"]
    assert conditions["bundle"] == bundle.identity
    assert conditions["backend"] == "onnxruntime"
    assert set(conditions["machine"]) == {"cpu", "cores", "system", "python"}
    assert all(conditions["machine"].values())


@pytest.mark.parametrize("version", [2, 4])
def test_another_schema_version_is_refused(bundle: Bundle, version: int) -> None:
    saved(bundle)
    path = bundle.path / PROFILE
    path.write_text(path.read_text().replace('"schema_version": 3', f'"schema_version": {version}'))
    message = f"schema version {version}; this release reads 3"
    with pytest.raises(FfnEdgeError, match=message) as caught:
        load_profile(bundle.path)
    assert "`ffn-edge profile`" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"schema_version": 3}',
        '{"schema_version": 3, "created": "", "conditions": {}, "latency_ms": {}}',
    ],
)
def test_a_damaged_profile_is_refused(bundle: Bundle, text: str) -> None:
    (bundle.path / PROFILE).write_text(text)
    with pytest.raises(FfnEdgeError, match=r"not a profile|damaged"):
        load_profile(bundle.path)


@pytest.mark.parametrize(
    ("where", "value", "complaint"),
    [
        (("latency_ms", "fp32", "2", "samples"), [0.0], r"latency_ms\.fp32\.2\.samples"),
        (
            ("latency_ms", "fp32", "2", "samples"),
            [1.0, float("inf")],
            r"latency_ms\.fp32\.2\.samples",
        ),
        (("latency_ms", "fp32", "2", "samples"), [], "latency"),
        (("latency_ms",), {}, "has no engine"),
        (("power_w", "fp32", "2"), -0.1, "not negative"),
        (("power_w", "fp32", "2"), None, "the power of some engines is missing"),
        (("power_w",), {}, "a power without a latency"),
        (("idle_w",), -4.5, "not negative"),
        (("idle_w",), "4.5", "idle_w"),
        (("idle_w",), None, "either the power at rest and of each engine, or a fault"),
        (("meter", "fault"), "no sensor", "either the power at rest"),
        (("begin", "temperature_c"), float("nan"), r"begin\.temperature_c"),
        (("conditions", "clocks", "cpu"), {"low_hz": 2e9, "high_hz": 1e9}, "a clock ranges"),
        (("conditions", "clocks", "cpu"), {"low_hz": -1, "high_hz": 1e9}, "a clock ranges"),
    ],
)
def test_a_profile_with_impossible_values_is_refused(
    bundle: Bundle, where: tuple[str, ...], value: object, complaint: str
) -> None:
    saved(bundle)
    path = bundle.path / PROFILE
    raw = json.loads(path.read_text())
    *outer, last = where
    holder = raw
    for key in outer:
        holder = holder[key]
    assert last in holder
    holder[last] = value
    path.write_text(json.dumps(raw))
    with pytest.raises(FfnEdgeError, match=f"is damaged: .*{complaint}"):
        load_profile(bundle.path)


def test_a_folder_that_cannot_be_written_is_named(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    elsewhere = dataclasses.replace(bundle, path=tmp_path / "file")
    with pytest.raises(FfnEdgeError, match="could not be written"):
        saved(elsewhere)


CLOCKS = Clocks(
    cpu=ClockRange(low_hz=730e6, high_hz=1.5e9),
    gpu=ClockRange(low_hz=918e6, high_hz=918e6),
    memory=ClockRange(low_hz=204e6, high_hz=3199e6),
)


def with_clocks(conditions: Conditions, **clocks: ClockRange | None) -> Conditions:
    return dataclasses.replace(conditions, clocks=dataclasses.replace(conditions.clocks, **clocks))


CARD = CardSetting(
    application_mhz=1095,
    highest_mhz=1410,
    memory_application_mhz=1215,
    memory_highest_mhz=1215,
    power_limit_w=250.0,
)


def with_card(conditions: Conditions, **changes: float) -> Conditions:
    return dataclasses.replace(conditions, card=dataclasses.replace(conditions.card, **changes))


def test_each_condition_that_moves_latency_is_compared(bundle: Bundle) -> None:
    now = dataclasses.replace(
        conditions_now(bundle.identity, cpu_backend(1)),
        power_mode="MAXN",
        clocks=CLOCKS,
        card=CARD,
    )
    assert now.differences(now) == []
    others = {
        "bundle": dataclasses.replace(now, bundle="0" * 64),
        "processor": dataclasses.replace(now, machine=dataclasses.replace(now.machine, cpu="Z80")),
        "cores": dataclasses.replace(now, machine=dataclasses.replace(now.machine, cores=99)),
        "backend": dataclasses.replace(now, backend_version="0.1"),
        "device": dataclasses.replace(now, device="Orin, SM 87"),
        "threads": dataclasses.replace(now, threads=99),
        "power mode": dataclasses.replace(now, power_mode="15W"),
        "CPU clock": with_clocks(now, cpu=ClockRange(low_hz=1.5e9, high_hz=1.5e9)),
        "GPU clock": with_clocks(now, gpu=ClockRange(low_hz=306e6, high_hz=624e6)),
        "memory clock": with_clocks(now, memory=ClockRange(low_hz=2133e6, high_hz=2133e6)),
        "the card's application clock": with_card(now, application_mhz=765),
        "the card's highest clock": with_card(now, highest_mhz=1215),
        "the card's memory's application clock": with_card(now, memory_application_mhz=810),
        "the card's memory's highest clock": with_card(now, memory_highest_mhz=1593),
        "the card's power limit": with_card(now, power_limit_w=150.0),
    }
    for what, other in others.items():
        (difference,) = other.differences(now)
        assert difference.startswith(what)


def test_a_difference_of_clocks_is_said_in_words(bundle: Bundle) -> None:
    fixed = dataclasses.replace(conditions_now(bundle.identity, cpu_backend(1)), clocks=CLOCKS)
    governed = with_clocks(fixed, gpu=ClockRange(low_hz=306e6, high_hz=918e6))
    assert fixed.differences(governed) == ["GPU clock fixed at 918 MHz, not of 306 to 918 MHz"]


def test_clocks_within_two_percent_or_unknown_do_not_differ(bundle: Bundle) -> None:
    now = dataclasses.replace(conditions_now(bundle.identity, cpu_backend(1)), clocks=CLOCKS)
    rounded = with_clocks(now, gpu=ClockRange(low_hz=904e6, high_hz=921e6))
    assert now.differences(rounded) == []
    unknown = dataclasses.replace(now, clocks=Clocks(), power_mode=None)
    assert unknown.differences(dataclasses.replace(now, power_mode="15W")) == []


def test_a_card_that_does_not_tell_or_nearly_the_same_does_not_differ(bundle: Bundle) -> None:
    now = dataclasses.replace(conditions_now(bundle.identity, cpu_backend(1)), card=CARD)
    assert now.differences(dataclasses.replace(now, card=CardSetting())) == []
    assert now.differences(with_card(now, highest_mhz=1425)) == []
    (said,) = now.differences(with_card(now, power_limit_w=150.0))
    assert said == "the card's power limit 250 W, not 150 W"


def test_only_what_runs_on_a_card_depends_on_how_it_is_set(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Card:
        def __init__(self, gpu: str) -> None:
            asked.append(gpu)

        def setting(self) -> CardSetting:
            return CARD

        def close(self) -> None:
            asked.append("closed")

    asked: list[str] = []
    monkeypatch.setattr(conditions_module, "NvmlMeter", Card)
    on_card = dataclasses.replace(cpu_backend(1), device="NVIDIA A100")
    assert conditions_now(bundle.identity, cpu_backend(1)).card == CardSetting()
    assert conditions_now(bundle.identity, on_card, tmp_path).card == CardSetting()
    assert asked == []
    assert conditions_now(bundle.identity, on_card).card == CARD
    assert asked == ["0", "closed"]

    def refuse(gpu: str) -> Card:
        raise SensorError("there is no NVIDIA driver")

    monkeypatch.setattr(conditions_module, "NvmlMeter", refuse)
    assert conditions_now(bundle.identity, on_card).card == CardSetting()


class RisingMeter:
    """A meter that shows one watt more each time."""

    name = "fake"
    scope = "a test"
    averaging = Averaging(samples=512, update_interval_ms=430)

    def __init__(self) -> None:
        self.watts = 0.0
        self.is_closed = False

    def read(self, now: float) -> PowerReading:  # noqa: D102
        self.watts += 1.0
        return PowerReading(time_s=now, total_w=self.watts, rails_w={})

    def close(self) -> None:  # noqa: D102
        self.is_closed = True


@pytest.fixture(autouse=True)
def info(caplog: pytest.LogCaptureFixture) -> None:
    """Record what is said of a measurement."""
    caplog.set_level("INFO")


def profiled_with(meter: Meter, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Profile:
    monkeypatch.setattr(profile_module, "meter_for", lambda backend, root: meter)
    monkeypatch.setattr(power_profile, "SETTLE_S", 0.1)
    monkeypatch.setattr(power_profile, "MEASURE_S", 0.3)
    return profile_bundle(bundle, EngineOptions(threads=1), runs=2)


def test_a_bundle_is_profiled_with_the_power_of_each_engine(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    meter = RisingMeter()
    profile = profiled_with(meter, bundle, monkeypatch)
    power = profile.power
    assert (power.meter, power.scope, power.fault) == ("fake", "a test", None)
    assert power.idle_w is not None
    above_w = power.above_idle_w["fp32"]
    # Each engine was measured later than the one before.
    assert 0 < above_w[2] < above_w[4] < above_w[8]
    assert "measuring power for 2 s with fake: a test" in caplog.messages
    assert meter.is_closed
    loaded = load_profile(bundle.path)
    assert loaded is not None
    assert loaded.power == power
    assert power.averaging == RisingMeter.averaging
    meter_fields = json.loads((bundle.path / PROFILE).read_text())["meter"]
    assert (meter_fields["samples"], meter_fields["update_interval_ms"]) == (512, 430)


def test_a_profile_from_before_averaging_was_told_is_still_read(bundle: Bundle) -> None:
    saved(bundle)
    fields = json.loads((bundle.path / PROFILE).read_text())
    del fields["meter"]["samples"], fields["meter"]["update_interval_ms"]
    (bundle.path / PROFILE).write_text(json.dumps(fields))
    loaded = load_profile(bundle.path)
    assert loaded is not None
    assert loaded.power == POWER


def test_without_a_meter_a_bundle_is_profiled_all_the_same(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wait(*_: object) -> None:
        raise AssertionError("there is nothing to wait for")

    monkeypatch.setattr(power_profile, "powers", wait)
    meter = NullMeter({"INA": SensorError("there is no INA3221")})
    profile = profiled_with(meter, bundle, monkeypatch)
    assert "there is no INA3221" in str(profile.power.fault)
    assert profile.power.above_idle_w == {}
    assert profile.energy_j("fp32", 2) is None
    assert all(len(latency.samples_ms) == 2 for latency in profile.latencies["fp32"].values())
    assert caplog.messages == []


def learnt(bundle: Bundle) -> list[float]:
    """Return the bases that `learn_setting` finds."""
    with open_engines(bundle, EngineOptions(threads=1)) as engines:
        setting = learn_setting(bundle, engines, NullMeter({}))
    return [point.base_ms for point in setting.points]


def test_a_profile_made_here_is_trusted(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    saved(bundle)
    assert learnt(bundle) == pytest.approx([1.1, 2.2, 4.4])
    assert caplog.messages == []


def lacks_engines(bundle: Bundle) -> None:
    save_profile(bundle, cpu_backend(1), {"fp32": {2: Latency((1.0,))}})


def is_disturbed(bundle: Bundle) -> None:
    save_profile(bundle, cpu_backend(1), {"fp32": LATENCIES}, disturbance="other programs ran")


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (lambda bundle: None, "there is no profile of this bundle yet"),
        (lambda bundle: saved(bundle, threads=7), "the profile was made for threads 7, not 1"),
        (lambda bundle: (bundle.path / PROFILE).write_text("{"), "is not a profile"),
        (lacks_engines, "the profile lacks 4, 8 frames"),
        (is_disturbed, "other programs ran"),
    ],
    ids=["none", "other threads", "broken", "without engines", "disturbed"],
)
def test_a_profile_that_does_not_hold_here_is_logged_and_a_quick_one_measured(
    bundle: Bundle,
    prepare: Callable[[Bundle], object],
    why: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    prepare(bundle)
    path = bundle.path / PROFILE
    before = path.read_bytes() if path.exists() else b""
    bases = learnt(bundle)
    assert len(bases) == 3 and bases != pytest.approx([1.1, 2.2, 4.4])
    assert why in caplog.messages[0] and "measuring quickly" in caplog.messages[0]
    assert (path.read_bytes() if path.exists() else b"") == before


MACS = {2: 100, 4: 200, 8: 400}
STEADY = {2: (1.0, 1.1, 1.2), 4: (2.0, 2.1, 2.4), 8: (4.0, 4.0, 4.1)}


@pytest.mark.parametrize(
    ("changes", "share_of_others", "sign"),
    [
        ({}, 0.0, None),
        ({}, 0.09, None),
        # Engines that wait rather than compute may take the same.
        ({2: (2.0, 2.2, 2.2), 4: (2.0, 2.0, 2.1)}, 0.0, None),
        # A few that were late are the tail, and no disturbance.
        ({4: (*(2.0,) * 9, 50.0)}, 0.0, None),
        ({2: (1.0,), 4: (2.0,), 8: (4.0,)}, 0.0, None),
        ({}, 0.5, "other programs took 50% of the processor"),
        ({4: (28.8, 28.8, 28.8), 8: (2.2, 2.2, 2.2)}, 0.0, "4 frames took longer than 8"),
        ({8: (4.0, 4.0, 9.0, 9.0, 9.0)}, 0.0, "8 frames took 4 ms at times"),
    ],
)
def test_what_disturbed_a_measurement_shows(
    changes: dict[int, tuple[float, ...]], share_of_others: float, sign: str | None
) -> None:
    latencies = {frames: Latency(samples) for frames, samples in {**STEADY, **changes}.items()}
    found = disturbance(latencies, MACS, share_of_others)
    assert found == sign if sign is None else found is not None and found.startswith(sign)


class BusyMachine:
    """Engines whose inferences take scripted milliseconds while others use the processor.

    The clocks are its own, and `root` holds its /proc/stat: of two processors, of which others take
    a share in each round of measuring.
    """

    def __init__(
        self,
        root: Path,
        monkeypatch: pytest.MonkeyPatch,
        shares: list[float],
    ) -> None:
        self.root, self.shares = root, shares
        self.now = self.others_s = 0.0
        self.inferences = 0
        self.paused_s: list[float] = []
        self.tell()
        monkeypatch.setattr(profile_module, "disturbance", disturbance)
        monkeypatch.setattr("time.perf_counter", lambda: self.now)
        monkeypatch.setattr("time.process_time", lambda: self.now)
        monkeypatch.setattr("time.sleep", self.paused_s.append)

    def tell(self) -> None:
        """Write what the processors did until now."""
        own, others, total = (round(100 * s) for s in (self.now, self.others_s, 2 * self.now))
        (self.root / "proc").mkdir(exist_ok=True)
        (self.root / "proc/stat").write_text(
            f"cpu0 {own} {others} 0 {total - own - others} 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0\n"
        )

    def engines(self, bundle: Bundle, runs: int) -> OpenEngines:
        """Return the engines; a round measures each `runs` times, and warms it up once."""
        machine = self

        class Scripted:
            def __init__(self, frames: int) -> None:
                self.frames = frames

            def infer(self, clip: np.ndarray) -> np.ndarray:
                rounds = machine.inferences // (len(MACS) * (runs + 1))
                share = machine.shares[min(rounds, len(machine.shares) - 1)]
                took_s = self.frames * 0.1 * (1 + share)
                machine.now += took_s
                machine.others_s += 2 * share * took_s
                machine.inferences += 1
                machine.tell()
                return np.zeros((1, 3), np.float32)

        scripted = {frames: Scripted(frames) for frames in bundle.manifest.frame_counts}
        return OpenEngines(scripted, cpu_backend(1))  # type: ignore[arg-type]


def test_a_disturbed_measurement_is_repeated_until_it_is_not(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    machine = BusyMachine(tmp_path, monkeypatch, [0.4, 0.0])
    engines = machine.engines(bundle, runs=4)
    latencies, why = profile_undisturbed(
        engines, bundle.manifest, runs=4, warm_up=1, pause_s=7.0, root=tmp_path
    )
    assert why is None
    assert [latencies[t].median_ms for t in (2, 4, 8)] == pytest.approx([200, 400, 800])
    (message,) = caplog.messages
    assert "40% of the processor; measuring again" in message
    assert machine.paused_s == [7.0]


def test_a_machine_that_stays_busy_is_measured_three_times_and_told(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    machine = BusyMachine(tmp_path, monkeypatch, [0.4, 0.3, 0.45])
    engines = machine.engines(bundle, runs=5)
    setting = learn_setting(bundle, engines, NullMeter({}), root=tmp_path)
    assert machine.inferences == 3 * 6 * len(MACS)
    assert len(setting.points) == 3
    levels = [record.levelname for record in caplog.records]
    assert levels == ["INFO", "INFO", "INFO", "WARNING"]
    assert "30% of" in caplog.messages[3]


def test_a_profile_from_before_disturbances_were_told_is_still_trusted(bundle: Bundle) -> None:
    saved(bundle)
    fields = json.loads((bundle.path / PROFILE).read_text())
    del fields["disturbance"]
    (bundle.path / PROFILE).write_text(json.dumps(fields))
    assert learnt(bundle) == pytest.approx([1.1, 2.2, 4.4])
