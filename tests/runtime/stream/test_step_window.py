"""Which frames of a stream are due, when an engine begins anew, and what is the mean of what."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ffn_edge.bundle.bundle import InputContract
from ffn_edge.bundle.stream_state import State
from ffn_edge.frames import segment_centres
from ffn_edge.runtime.engines.engine import Logits
from ffn_edge.runtime.stream import window as window_module
from ffn_edge.runtime.stream.clip_buffer import Clip, HostRing
from ffn_edge.runtime.stream.sources import Frame
from ffn_edge.runtime.stream.step_window import StepWindow
from ffn_edge.runtime.stream.stillness import Stillness
from ffn_edge.runtime.stream.window import Seat, Timing

SIZE = 4
COUNTS = (4, 8, 16)


class Engine:
    """Says how often it was asked, as its only logit, and may fail to say it."""

    frames, device_ms = 1, None

    def __init__(self, says: Iterable[float] = ()) -> None:
        self.restarts = 0
        self.taken: list[float] = []  # the last frames of others, which it went on from
        self.saw: list[int] = []
        self._says = list(says)

    def infer(self, frames: Clip) -> Logits:
        """Take a frame; what it says begins with what it was told to."""
        assert isinstance(frames, np.ndarray) and frames.shape == (1, 1, SIZE, SIZE, 3)
        self.saw.append(int(frames[0, 0, 0, 0, 0]))
        said = self._says.pop(0) if self._says else float(self.saw[-1])
        return np.full((1, 1), said, np.float32)

    def restart(self, state: State | None = None) -> None:
        """Count it, where it begins anew."""
        if state is None:
            self.restarts += 1
        else:
            self.taken.append(state[0].item())

    def state(self) -> State:
        """Tell the last frame."""
        return (np.float32([self.saw[-1]]),)


class Played:
    """A stream that was watched at rates that follow from the time."""

    def __init__(
        self,
        times_s: Iterable[float],
        rate: Callable[[float], int] = lambda time_s: 16,
        *,
        fps: float = 30.0,
        window_s: float = 2.0,
        engines: dict[int, Engine] | None = None,
    ) -> None:
        contract = InputContract(
            batch=1, height=SIZE, width=SIZE, short_side=SIZE, mean=(0.0,) * 3, std=(1.0,) * 3
        )
        stream: Any = SimpleNamespace(name="a.mp4", fps=fps)
        ring = HostRing(1, 1, SIZE, SIZE)
        self.engines = engines or {frames: Engine() for frames in COUNTS}
        fewest = min(self.engines)
        self.window = StepWindow(
            stream, ring, contract, Timing(window_s=window_s), 0.0, fewest=fewest, seat=Seat()
        )
        self.used: list[int] = []  # the numbers of the frames
        self.answers: list[float] = []
        self.restarts: dict[int, str] = {}  # by the frame's number
        self.covers_s: list[float] = []
        for number, time_s in enumerate(times_s):
            image = np.full((SIZE, SIZE, 3), number % 256, np.uint8)
            self.window.add(Frame(image, time_s))
            if self.window.is_due(time_s):
                frames = rate(time_s)
                clip = self.window.clip(frames)
                self.answers += self.window.answer(self.engines[frames], clip).tolist()
                self.used.append(number)
                self.covers_s.append(self.window.covers_s)
                if self.window.restart is not None:
                    self.restarts[number] = self.window.restart


def at(fps: float, count: int) -> list[float]:
    return [number / fps for number in range(count)]


@pytest.mark.parametrize("frames", COUNTS)
@pytest.mark.parametrize(("fps", "came"), [(30.0, 60), (25.0, 50), (29.97, 60), (8.0, 16)])
def test_frames_are_as_far_apart_as_in_a_clip_of_the_window(
    frames: int, fps: float, came: int
) -> None:
    played = Played(at(fps, came), lambda _: frames, fps=fps)
    assert len(played.used) == frames
    shifts = np.asarray(played.used) - segment_centres(came, frames)
    assert np.ptp(shifts) <= 1  # rounding


def test_a_rate_that_divides_the_sources_is_kept_exactly() -> None:
    assert Played(at(32.0, 200), fps=32.0).used == list(range(0, 200, 4))


def test_uneven_timestamps_keep_the_rate() -> None:
    rng = np.random.default_rng(0)
    times_s = np.cumsum(rng.uniform(0.001, 0.065, 3000))
    played = Played(times_s)
    length_s = times_s[-1] - times_s[0]
    assert len(played.used) == pytest.approx(8 * length_s, rel=0.02)
    assert list(played.restarts.values()) == ["start"]


def test_frames_that_are_not_due_are_not_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = []
    original = window_module.prepare_frame

    def count(*arguments: Any) -> Any:
        prepared.append(1)
        return original(*arguments)

    monkeypatch.setattr(window_module, "prepare_frame", count)
    played = Played(at(32.0, 64), fps=32.0)
    assert len(prepared) == len(played.used) == 16


def test_at_one_rate_the_answer_is_the_plain_mean_over_the_last_frames_of_a_window() -> None:
    says = np.random.default_rng(0).normal(size=50)
    played = Played(at(8.0, 50), fps=8.0, engines={16: Engine(says)})
    plain = [np.mean(says[max(0, k - 15) : k + 1]) for k in range(50)]
    assert played.answers == pytest.approx(plain, abs=1e-6)


def test_after_a_change_of_rate_each_frame_counts_for_its_spacing() -> None:
    engines = {4: Engine([1.0] * 9), 16: Engine([5.0] * 99)}
    played = Played(at(8.0, 40), lambda s: 4 if s < 2.0 else 16, fps=8.0, engines=engines)
    changed = played.answers[4:8]
    # Three to two of the four frames of half a second are left, and each time 1/8 s more of 5.
    assert changed[0] == pytest.approx((3 * 0.5 * 1 + 0.125 * 5) / 1.625)
    assert changed[3] == pytest.approx((3 * 0.5 * 1 + 0.5 * 5) / 2.0)
    assert played.answers[4 + 15] == pytest.approx(5.0)


def test_at_a_change_of_rate_the_engine_goes_on_from_the_state_of_the_one_before() -> None:
    played = Played(at(8.0, 49), lambda s: 4 if 2.0 <= s < 4.0 else 16, fps=8.0)
    assert played.restarts == {0: "start"}
    assert {t: engine.restarts for t, engine in played.engines.items()} == {4: 0, 8: 0, 16: 1}
    assert {t: engine.taken for t, engine in played.engines.items()} == {4: [15], 8: [], 16: [28]}


def test_after_an_interruption_no_state_is_taken_over() -> None:
    times_s = [*at(8.0, 16), *(10.0 + time_s for time_s in at(8.0, 16))]
    played = Played(times_s, lambda s: 16 if s < 5.0 else 4, fps=8.0)
    assert played.restarts == {0: "start", 16: "start"}
    assert played.engines[4].restarts == 1
    assert played.engines[4].taken == []


def test_a_gap_starts_the_stream_anew() -> None:
    before, after = at(8.0, 20), [10.0 + time_s for time_s in at(8.0, 20)]
    played = Played([*before, *after], fps=8.0)
    assert played.restarts == {0: "start", 20: "start"}
    assert played.answers[20] == 20.0  # of that frame alone
    assert played.answers[21] == 20.5
    assert played.used == list(range(40))


@pytest.mark.parametrize(("pause_s", "restarts"), [(0.74, [0]), (0.76, [0, 8])])
def test_a_gap_is_longer_than_the_slowest_rate_explains(
    pause_s: float, restarts: list[int]
) -> None:
    before = at(8.0, 8)
    times_s = [*before, *(before[-1] + pause_s + time_s for time_s in at(8.0, 8))]
    assert list(Played(times_s, fps=8.0).restarts) == restarts


def test_of_a_source_that_is_slower_than_the_rate_every_frame_is_used_once() -> None:
    says = [float(number) for number in range(20)]
    played = Played(at(5.0, 20), fps=5.0, engines={4: Engine(), 16: Engine(says)})
    assert played.used == list(range(20))
    assert list(played.restarts) == [0]
    assert played.answers[-1] == pytest.approx(np.mean(says[-10:]))  # of two seconds


def test_a_source_that_is_slower_than_the_slowest_rate_is_one_stream_still() -> None:
    assert list(Played(at(1.0, 20), fps=1.0).restarts) == [0]
    # One that states more is known by its second interval.
    slower = Played(at(1.0, 20), fps=30.0)
    assert list(slower.restarts) == [0, 1]
    assert slower.window.source_frames == 2


def test_what_the_source_gives_is_what_it_states_or_less() -> None:
    assert Played(at(30.0, 3), fps=30.0).window.source_frames == pytest.approx(60)
    slow = Played(at(5.0, 30), fps=30.0)
    assert slow.window.source_frames == pytest.approx(10)
    assert Played(at(60.0, 300), fps=30.0).window.source_frames == pytest.approx(60)


def test_points_of_the_grid_that_are_past_are_left_out() -> None:
    played = Played([])
    for number in range(100):
        played.window.add(Frame(np.full((SIZE, SIZE, 3), number, np.uint8), number / 32))
        if number in (0, 50, 52, 54):  # an engine that was late, and then not
            assert played.window.is_due(number / 32) == (number != 54)
            if number != 54:
                clip = played.window.clip(16)
                played.window.answer(played.engines[16], clip)
    assert played.engines[16].saw == [0, 50, 52]  # 52 is on the grid


def test_a_state_that_is_not_finite_begins_anew_with_the_same_frame() -> None:
    engine = Engine([1.0, np.nan, 3.0])
    played = Played(at(8.0, 2), fps=8.0, engines={16: engine})
    assert engine.saw == [0, 1, 1]
    assert played.restarts == {0: "start", 1: "not finite"}
    assert played.answers == [1.0, 2.0]


def test_a_frame_of_another_size_is_part_of_the_same_stream() -> None:
    played = Played(at(8.0, 4), fps=8.0)
    played.window.add(Frame(np.full((3 * SIZE, 5 * SIZE, 3), 9, np.uint8), 0.5))
    clip = played.window.clip(16)
    assert played.window.answer(played.engines[16], clip) == pytest.approx(np.mean([0, 1, 2, 3, 9]))
    assert played.window.restart is None


def test_the_grid_does_not_drift_over_a_day() -> None:
    played = Played([], fps=30.0)
    window, used = played.window, []
    window.add(Frame(np.zeros((SIZE, SIZE, 3), np.uint8), 0.0))
    window.clip(16)
    first = 30 * 86400
    for number in range(first, first + 600):
        window.add(Frame(np.zeros((SIZE, SIZE, 3), np.uint8), number / 30))
        if window.is_due(number / 30):
            window.clip(16)
            used.append(number - first)
    assert len(used) == 160
    assert max(abs(number - 3.75 * k) for k, number in enumerate(used)) <= 0.51


def test_each_answer_stands_for_no_more_than_the_window_however_rates_change() -> None:
    rng = np.random.default_rng(0)
    rates = rng.choice(COUNTS, 400)
    engines = {frames: Engine([float(frames)] * 400) for frames in COUNTS}
    played = Played(at(16.0, 400), lambda s: int(rates[round(16 * s)]), fps=16.0, engines=engines)
    assert max(played.covers_s) <= 2.0 + 1e-9
    # A slower rate begins with the frame at which it was chosen, and not on a grid of its own.
    slow = Played(at(16.0, 64), lambda s: 16 if s < 2.3 else 4, fps=16.0)
    assert [number / 16 for number in slow.used[-4:]] == [2.375, 2.875, 3.375, 3.875]


@pytest.mark.parametrize(("fps", "window_s"), [(0.2, 2.0), (24.0, 0.02), (1.0, 2.0)])
def test_a_window_may_be_shorter_than_a_frame_of_the_source(fps: float, window_s: float) -> None:
    played = Played(at(fps, 12), fps=fps, window_s=window_s)
    assert played.used == list(range(12))
    assert played.answers == pytest.approx(range(12)) or fps == 1.0


def test_a_source_that_is_slow_and_uneven_is_one_stream() -> None:
    times_s = np.cumsum([0.2, 1.0] * 8)
    assert list(Played(times_s, fps=8.0).restarts) == [0, 1]


class Remembers(Engine):
    """Says half of what it said before, and the frame."""

    def __init__(self) -> None:
        super().__init__()
        self._state = np.zeros(1, np.float32)

    def infer(self, frames: Clip) -> Logits:
        """Take a frame."""
        assert isinstance(frames, np.ndarray)
        self._state = self._state / 2 + np.float32(frames[0, 0, 0, 0, 0])
        return self._state[None]

    def restart(self, state: State | None = None) -> None:
        """Forget, or go on from another's."""
        self._state = np.zeros(1, np.float32) if state is None else state[0]

    def state(self) -> State:
        """Tell it."""
        return (self._state,)


def step_window(seat: Seat, name: str, stillness: Stillness | None = None) -> StepWindow:
    contract = InputContract(
        batch=1, height=SIZE, width=SIZE, short_side=SIZE, mean=(0.0,) * 3, std=(1.0,) * 3
    )
    stream: Any = SimpleNamespace(name=name, fps=8.0)
    ring = HostRing(1, 1, SIZE, SIZE)
    timing = Timing(window_s=2.0)
    return StepWindow(stream, ring, contract, timing, 0.0, fewest=4, seat=seat, stillness=stillness)


def see(window: StepWindow, engine: Engine, number: int, value: int) -> float:
    window.add(Frame(np.full((SIZE, SIZE, 3), value, np.uint8), number / 8))
    return float(window.answer(engine, window.clip(16))[0])


def test_streams_that_take_turns_on_one_engine_are_answered_as_if_alone() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 255, (3, 40))
    alone = []
    for camera in values:
        window, engine = step_window(Seat(), "alone"), Remembers()
        alone.append([see(window, engine, n, int(value)) for n, value in enumerate(camera)])
    seat, engine = Seat(), Remembers()
    windows = [step_window(seat, name) for name in "abc"]
    together: list[list[float]] = [[], [], []]
    for number in range(40):
        for camera in rng.permutation(3):
            value = int(values[camera, number])
            together[camera].append(see(windows[camera], engine, number, value))
    assert together == alone


def test_engines_of_another_bundle_begin_anew_with_a_stream() -> None:
    seat, engine, other = Seat(), Remembers(), Remembers()
    window = step_window(seat, "a")
    for number in range(8):
        see(window, engine, number, 100)
    window.move_to(HostRing(1, 1, SIZE, SIZE), Seat())
    assert see(window, other, 8, 10) == 10.0
    assert window.restart == "start"
    see(window, other, 9, 10)
    assert window.restart is None


def test_what_is_still_is_looked_at_by_another_bundle_without_another_streams_state() -> None:
    seat, engine = Seat(), Remembers()
    still, other = step_window(seat, "still", Stillness(2.0)), step_window(seat, "other")
    for number in range(60):
        see(still, engine, number, 100)
        see(other, engine, number, 200)
    assert still.is_still
    seat, engine = Seat(), Remembers()
    for window in (other, still):
        window.move_to(HostRing(1, 1, SIZE, SIZE), seat)
    see(other, engine, 60, 200)
    assert not still.is_still
    assert see(still, engine, 60, 100) == 100.0
    assert still.restart == "start"
    # What it says of few frames must not stand.
    seen = [see(still, engine, number, 100) and still.is_still for number in range(61, 100)]
    assert seen.index(True) == 2 * 16 - 1


def test_a_still_stream_is_answered_as_if_its_frames_were_looked_at() -> None:
    values = [100] * 60 + [30] * 20
    all_seen, watched = (
        step_window(Seat(), name, Stillness(2.0) if name == "watched" else None)
        for name in ("all", "watched")
    )
    engines = Remembers(), Remembers()
    skipped = 0
    for number, value in enumerate(values):
        expected = see(all_seen, engines[0], number, value)
        watched.add(Frame(np.full((SIZE, SIZE, 3), value, np.uint8), number / 8))
        if watched.is_still:
            watched.skip()
            skipped += 1
        else:
            found = float(watched.answer(engines[1], watched.clip(16))[0])
            assert found == pytest.approx(expected, abs=1e-3)
    # Nothing is left out until the window, and what the state is of, are still.
    assert skipped == 60 - 2 * 16 - 1
