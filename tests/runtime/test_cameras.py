"""Several cameras at once, on scripted ones and real engines."""

from __future__ import annotations

import dataclasses
import itertools
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffn_edge.bundle.bundle import Bundle
from ffn_edge.errors import EngineError, FfnEdgeError, VideoError
from ffn_edge.files.secret import Secret
from ffn_edge.media.picture import prepare_frame
from ffn_edge.runtime.camera_settings import CameraSettings, cameras_of, open_camera
from ffn_edge.runtime.cameras import Cameras
from ffn_edge.runtime.classifier import Classifier, Result
from ffn_edge.runtime.engines.engine import EngineOptions, OpenEngines, open_engines
from ffn_edge.runtime.policy.adaptive import Adaptive
from ffn_edge.runtime.policy.interface import Limits, OperatingPoint, Sensed, Setting
from ffn_edge.runtime.run import RunOptions, open_session
from ffn_edge.runtime.session import NO_HOOKS, Hooks, Session
from ffn_edge.runtime.shared_budget import SharedBudget
from ffn_edge.runtime.stream import live_reader
from ffn_edge.runtime.stream.sources import Frame, LoopedVideo, Source
from ffn_edge.runtime.stream.window import Timing, cropped

ENGINES = EngineOptions(threads=1)
COLOURS = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}  # BGR
TIMING = Timing(window_s=0.2, hop_s=0.05)


def picture(colour: str) -> np.ndarray:
    return np.full((32, 32, 3), COLOURS[colour], np.uint8)


class Paced:
    """A camera of 50 frames a second, whose picture the test chooses, and that it may pull."""

    live, comes_back, fps = True, True, 50.0

    def __init__(self, name: str, colour: str = "red") -> None:
        self.name = name
        self.image = picture(colour)
        self.is_away = threading.Event()
        self.opened = 0
        self._start = time.monotonic()

    def __enter__(self) -> Paced:
        if self.is_away.is_set():
            raise VideoError(f"{self.name} cannot be opened", "check its cable.")
        self.opened += 1
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[Frame]:
        while True:
            time.sleep(1 / self.fps)
            if self.is_away.is_set():
                raise VideoError(f"{self.name} stopped sending frames", "check its cable.")
            yield Frame(self.image, time.monotonic() - self._start)


@pytest.fixture
def classifier(bundle: Bundle) -> Iterator[Classifier]:
    with open_classifier(bundle) as found:
        yield found


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A camera that is away is tried again soon."""
    monkeypatch.setattr(live_reader.live_readers, "__kwdefaults__", {
        **live_reader.live_readers.__kwdefaults__, "pauses_s": (0.05,)
    })  # fmt: skip


class open_classifier:  # noqa: N801 - it is used as a function
    """A classifier of a bundle, with operating points that the test may choose."""

    def __init__(self, bundle: Bundle, points: Any = None, sensed: Sensed | None = None) -> None:
        self._engines = open_engines(bundle, ENGINES)
        self._bundle, self._points, self._sensed = bundle, points, sensed

    def __enter__(self) -> Classifier:
        engines: OpenEngines = self._engines.__enter__()
        points = self._points or [OperatingPoint(frames=t, base_ms=0.2) for t in engines]
        sensed = self._sensed or Sensed()
        setting = Setting(points=points, idle_w=1.0)
        return Classifier(engines, self._bundle.manifest, Adaptive(), setting, lambda now: sensed)

    def __exit__(self, *error: Any) -> None:
        self._engines.__exit__(*error)


def watch(*streams: Paced, **changes: Any) -> list[tuple[CameraSettings, Paced]]:
    return [
        (CameraSettings(name=each.name, source=Secret("0"), **{"hop_s": 0.05, **changes}), each)
        for each in streams
    ]


def cameras(
    watched: list[tuple[CameraSettings, Paced]],
    classifier: Classifier,
    limits: Limits = Limits(),  # noqa: B008
    hooks: Hooks = NO_HOOKS,
    **fields: Any,
) -> Cameras:
    return Cameras(watched, classifier, lambda: limits, TIMING, hooks, **fields)


def take(session: Cameras | Session, until: Callable[[list[Result]], bool]) -> list[Result]:
    """Run until the results say so, within a minute."""
    results: list[Result] = []
    too_long = threading.Timer(60, session.stop)  # where no result comes, too
    too_long.start()
    try:
        with closing(iter(session)) as running:
            for result in running:
                results.append(result)
                if until(results):
                    break
    finally:
        assert too_long.is_alive()
        too_long.cancel()
        too_long.join()
    return results


def each_has(count: int, *names: str) -> Callable[[list[Result]], bool]:
    def enough(results: list[Result]) -> bool:
        counts = Counter(result.source for result in results)
        return all(counts[name] >= count for name in names)

    return enough


def test_cameras_are_watched_at_once_each_with_its_own_window(classifier: Classifier) -> None:
    session = cameras(watch(Paced("a", "red"), Paced("b", "blue")), classifier)
    results = take(session, each_has(10, "a", "b"))
    assert {(r.source, r.top[0].class_name) for r in results} == {("a", "red"), ("b", "blue")}
    for name in "ab":
        own = [result.time_s for result in results if result.source == name]
        assert own == sorted(own)
    elapsed = [result.elapsed_s for result in results]
    assert elapsed == sorted(elapsed)
    assert all(result.waited_ms >= 0 for result in results)
    counts = Counter(result.source for result in results)
    assert min(counts.values()) >= 0.5 * max(counts.values())


def test_a_camera_that_dies_costs_the_others_nothing_and_comes_back(
    classifier: Classifier,
) -> None:
    steady, pulled = Paced("steady"), Paced("pulled", "blue")
    lost: list[str] = []
    session = cameras(watch(steady, pulled), classifier, hooks=Hooks(on_lost=lost.append))
    marks: list[int] = []

    def pull(results: list[Result]) -> bool:
        if len(results) in (20, 60, 100):
            pulled.is_away.set()
            marks.append(len(results))
        if marks and len(results) == marks[-1] + 15:
            assert lost == ["pulled"] * len(marks)
            assert {each.name: each.up for each in session.states()}["pulled"] is False
            pulled.is_away.clear()
        return len(marks) == 3 and pulled.opened == 4 and len(results) > 150

    results = take(session, pull)
    away = results[marks[0] + 3 : marks[0] + 15]
    assert {result.source for result in away} == {"steady"}
    assert "share" in results[marks[0] - 1].decision.reason
    assert not any("share" in result.decision.reason for result in away[3:])
    assert {result.source for result in results[-10:]} == {"steady", "pulled"}


def test_a_camera_that_is_away_at_the_start_is_waited_for(classifier: Classifier) -> None:
    here, away = Paced("here"), Paced("away")
    away.is_away.set()
    session = cameras(watch(here, away), classifier)

    def come(results: list[Result]) -> bool:
        if len(results) == 10:
            assert {result.source for result in results} == {"here"}
            away.is_away.clear()
        return each_has(3, "away")(results)

    take(session, come)


def test_cameras_come_and_go_while_it_runs_and_the_others_go_on(classifier: Classifier) -> None:
    first, second, third = (Paced(name) for name in ("first", "second", "third"))
    session = cameras(watch(first, second), classifier)

    def change(results: list[Result]) -> bool:
        if len(results) == 20:
            session.set_cameras(watch(second, third, hop_s=0.04))
        return each_has(5, "third")(results)

    results = take(session, change)
    assert "first" not in {result.source for result in results[25:]}
    assert second.opened == 1
    own = [result.time_s for result in results if result.source == "second"]
    assert max(b - a for a, b in itertools.pairwise(own)) < 1.0


class Exclusive(Paced):
    """A camera of which there is one device, that takes a while to close."""

    device = threading.Lock()

    def __enter__(self) -> Paced:
        if not self.device.acquire(blocking=False):
            raise VideoError(f"{self.name} is used by another program", "end it.")
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        time.sleep(0.2)
        self.device.release()


@pytest.mark.parametrize("name", ["a", "another name"])
def test_a_camera_that_changes_begins_when_it_has_left(
    name: str, classifier: Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []
    hooks = Hooks(on_lost=lambda name: told.append(f"{name} is lost"))
    session = cameras(watch(Exclusive("a"), Paced("b")), classifier, hooks=hooks)
    changed = watch(Exclusive(name, "blue"), Paced("b"), roi=(0, 0, 0.5, 1))

    def change(results: list[Result]) -> bool:
        if results[-1].source != "b":
            told.append(results[-1].top[0].class_name)
        if told.count("red") == 5:
            session.set_cameras(changed)
        return told.count("blue") == 5

    take(session, change)
    assert not caplog.records
    assert "red" not in told[told.index("a is lost") : told.index("blue")]
    assert told.index("a is lost") < told.index("blue")


def test_another_hop_is_told_to_the_policy(classifier: Classifier) -> None:
    periods_s: list[float] = []
    new_controller = classifier.new_controller

    def noted(setting: Setting | None = None) -> Any:
        periods_s.append(math.nan if setting is None else setting.period_s)
        return new_controller(setting)

    classifier.new_controller = noted  # type: ignore[method-assign]
    camera = Paced("a")
    session = cameras(watch(camera), classifier)

    def change(results: list[Result]) -> bool:
        if len(results) == 5:
            session.set_cameras(watch(camera, hop_s=0.1))
        return len(results) == 10

    results = take(session, change)
    assert periods_s[-1] == 0.1
    assert results[-1].time_s - results[-2].time_s > 0.075


def test_another_bundle_takes_over_between_two_inferences_with_the_windows(
    classifier: Classifier, bundle: Bundle
) -> None:
    with open_classifier(bundle) as other:
        camera = Paced("a", "green")
        session = cameras(watch(camera), classifier)
        asked: list[float] = []

        def swap(results: list[Result]) -> bool:
            if len(results) == 10:
                asked.append(results[-1].time_s)
                session.swap(other)
            return len(results) == 20

        results = take(session, swap)
    after = [result for result in results if result.time_s > asked[0]]
    assert len(after) == 10
    assert after[0].time_s < asked[0] + TIMING.clip_s  # no window was filled anew
    assert {result.top[0].class_name for result in results} == {"green"}
    assert session.classifier is other


def test_an_engine_that_fails_is_an_error_unless_there_is_one_to_go_back_to(
    classifier: Classifier, bundle: Bundle
) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise EngineError("the device is lost", "restart it.")

    with open_classifier(bundle) as other:
        other.classify = broken  # type: ignore[method-assign]
        with pytest.raises(EngineError, match="lost"):
            take(cameras(watch(Paced("a")), other), each_has(1, "a"))
        session = cameras(watch(Paced("a")), other)
        failed: list[EngineError] = []

        def fall_back(error: EngineError) -> Classifier:
            failed.append(error)
            return classifier

        session.fall_back = fall_back
        take(session, each_has(5, "a"))
    assert len(failed) == 1


def test_no_camera_and_no_window_is_lost_with_an_engine_that_is_gone_back_from(
    classifier: Classifier, bundle: Bundle
) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise EngineError("out of memory", "end other programs.")

    first, second = Paced("first"), Paced("second")
    second.is_away.set()
    with open_classifier(bundle) as other:
        session = cameras(watch(first, second), classifier)
        failed: list[EngineError] = []

        def fall_back(error: EngineError) -> Classifier:
            failed.append(error)
            return classifier

        def change(results: list[Result]) -> bool:
            if len(results) == 5:
                session.swap(other)
            if len(results) == 10:
                other.open_window = broken  # type: ignore[method-assign]
                second.is_away.clear()
            if failed and results[-1].source == "second" and len(failed) == 1:
                other.classify = other.open_ring = broken  # type: ignore[method-assign]
                session.swap(other)
            return len(failed) >= 2 and each_has(20, "first", "second")(results)

        session.fall_back = fall_back
        take(session, change)
    assert len(failed) == 2


def points(**power: float) -> list[OperatingPoint]:
    accuracy = {2: 0.6, 4: 0.7, 8: 0.8}
    return [
        OperatingPoint(
            frames=t, base_ms=0.5 * t, accuracy=accuracy[t], clips=1000, power_w=power.get("w")
        )
        for t in (2, 4, 8)
    ]


def test_cameras_share_one_budget_and_every_decision_says_so(bundle: Bundle) -> None:
    # Every 0.05 s, 8 frames are busy for 0.08 of the time, at 10 W: two cameras draw 1.6 W.
    sensed = Sensed(power_w=2.0, energy_j=0.1)
    with open_classifier(bundle, points(w=10.0), sensed) as classifier:
        wealthy = take(
            cameras(watch(Paced("a"), Paced("b")), classifier, Limits(power_w=20.0)),
            each_has(5, "a", "b"),
        )
        poor = take(
            cameras(watch(Paced("a"), Paced("b")), classifier, Limits(power_w=1.01)),
            each_has(5, "a", "b"),
        )
    assert {result.frames for result in wealthy[-5:]} == {8}
    assert {result.frames for result in poor[-5:]} == {2}
    assert "2 cameras" in poor[-1].decision.reason
    assert "share" in poor[-1].decision.rejected[8]
    assert poor[-1].observation.limits.power_w == 1.01


def test_a_budget_that_cannot_be_measured_is_kept_by_the_fewest_frames_and_said(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    with open_classifier(bundle, points()) as classifier:
        session = cameras(watch(Paced("a"), Paced("b")), classifier, Limits(power_w=20.0))
        results = take(session, each_has(5, "a", "b"))
    assert {result.frames for result in results} == {2}
    assert "power is not known" in caplog.text


def test_waiting_for_the_others_counts_against_the_deadline(bundle: Bundle) -> None:
    with open_classifier(bundle) as classifier:
        slow = classifier.classify

        def classify(*arguments: Any, **named: Any) -> Result:
            time.sleep(0.03)
            return slow(*arguments, **named)

        classifier.classify = classify  # type: ignore[method-assign]
        watched = watch(*(Paced(name) for name in "abcd"))
        results = take(cameras(watched, classifier, Limits(latency_ms=40.0)), each_has(5, *"abcd"))
    waited = [result for result in results if result.waited_ms > 40]
    assert waited
    assert all(result.missed for result in waited)


def test_no_camera_starves_where_there_is_too_much_to_do(bundle: Bundle) -> None:
    with open_classifier(bundle) as classifier:
        slow = classifier.classify

        def classify(*arguments: Any, **named: Any) -> Result:
            time.sleep(0.02)
            return slow(*arguments, **named)

        classifier.classify = classify  # type: ignore[method-assign]
        results = take(
            cameras(watch(*(Paced(name) for name in "abcd")), classifier),
            lambda results: len(results) == 120,
        )
    counts = Counter(result.source for result in results[20:])
    assert min(counts.values()) >= 0.8 * 100 / 4


def test_a_still_scene_costs_no_inference_and_its_motion_does(classifier: Classifier) -> None:
    camera, other = Paced("a", "red"), Paced("b", "red")
    still: list[tuple[str, float]] = []
    hooks = Hooks(on_still=lambda name, time_s: still.append((name, time_s)))
    session = cameras(watch(camera, other), classifier, hooks=hooks, still=4.0)

    def move(results: list[Result]) -> bool:
        if results[-1].source == "b":  # it always moves
            other.image = picture("blue" if other.image[0, 0, 2] else "red")
        if len(still) >= 20 and camera.image[0, 0, 2]:
            camera.image = picture("blue")
        return results[-1].source == "a" and results[-1].top[0].class_name == "blue"

    results = take(session, move)
    assert {name for name, _ in still} == {"a"}
    assert sum(result.source == "a" for result in results) < 20
    times = [time_s for _, time_s in still]
    assert times == sorted(times)


def test_a_still_scene_is_looked_at_by_another_bundle(
    classifier: Classifier, bundle: Bundle
) -> None:
    watched = watch(Paced("a"), Paced("b"))
    with open_classifier(bundle) as other:
        still: list[str] = []
        hooks = Hooks(on_still=lambda name, time_s: still.append(name))
        session = cameras(watched, classifier, hooks=hooks, still=4.0)

        def swap() -> None:
            if session.classifier is classifier and min(map(still.count, "ab")) > 3:
                session.swap(other)

        session.on_round = swap
        after: list[str] = []

        def both(results: list[Result]) -> bool:
            if session.classifier is other:
                after.append(results[-1].source)
            return {*after} == {*"ab"}

        take(session, both)


def test_an_answer_after_a_long_stillness_has_a_power_that_is_known(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    sensed = Sensed(power_w=2.0, energy_j=0.1)
    names = ("a", "b")
    settings = {name: CameraSettings(name=name, source=Secret("0")) for name in names}
    limits = Limits(power_w=20.0)
    with open_classifier(bundle, points(w=10.0), sensed) as classifier:
        results = take(cameras(watch(*map(Paced, names)), classifier, limits), each_has(2, *names))
        warned: list[str] = []
        budget = SharedBudget(classifier.setting, lambda text, now: warned.append(text))
    for result in results:
        budget.learn(result, 0.05, limits)
    assert budget.share_of("a", settings, limits, results[-1].observation.now + 60)[0] == 8
    assert not warned
    silent = dataclasses.replace(
        results[-1].observation, now=results[-1].observation.now + 61, sensed=Sensed()
    )
    budget.learn(dataclasses.replace(results[-1], observation=silent), 0.05, limits)
    assert budget.share_of("a", settings, limits, silent.now)[0] == 2
    assert warned


def test_no_thread_outlives_it(classifier: Classifier) -> None:
    before = threading.active_count()
    take(cameras(watch(Paced("a"), Paced("b")), classifier), each_has(2, "a", "b"))
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_it_ends_after_the_seconds_that_were_asked_for_and_when_it_is_stopped(
    classifier: Classifier,
) -> None:
    timing = dataclasses.replace(TIMING, max_seconds=0.5)
    session = Cameras(watch(Paced("a")), classifier, Limits, timing)
    begin = time.monotonic()
    assert take(session, lambda results: False)
    assert time.monotonic() - begin < 10
    session = cameras(watch(Paced("a")), classifier)
    threading.Timer(0.3, session.stop).start()
    take(session, lambda results: False)


def test_files_that_have_ended_end_it(
    classifier: Classifier, write_video: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    watched = []
    for name in "ab":
        video = write_video(f"{name}.mp4", ["red"] * 5)
        settings = CameraSettings(name=name, source=Secret(str(video)))
        watched.append((settings, open_camera(settings)))
    results = take(Cameras(watched, classifier, Limits, TIMING), lambda results: False)
    assert {result.source for result in results} == {"a", "b"}
    assert "a has ended" in caplog.text


def test_a_looped_video_goes_on_in_time(write_video: Callable[..., Path]) -> None:
    looped = LoopedVideo(write_video("a.mp4", ["red", "green", "blue"], fps=20.0))
    with looped:
        frames = list(itertools.islice(looped, 8))
    times = [frame.time_s for frame in frames]
    places = np.asarray(times) / 0.05  # late ones may be left out
    np.testing.assert_allclose(places, places.round(), atol=1e-6)
    assert times == sorted(times)
    with looped:  # it comes back
        assert next(iter(looped)).time_s > times[-1]


def test_a_part_of_the_picture_is_looked_at_alone(
    classifier: Classifier,
) -> None:
    camera = Paced("a")
    camera.image = np.concatenate([picture("red"), picture("blue")], axis=1)
    left = take(cameras(watch(camera, roi=(0, 0, 0.5, 1)), classifier), each_has(1, "a"))
    right = take(cameras(watch(camera, roi=(0.5, 0, 0.5, 1)), classifier), each_has(1, "a"))
    assert [each[-1].top[0].class_name for each in (left, right)] == ["red", "blue"]


def test_a_part_of_one_pixel_can_be_looked_at() -> None:
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    for roi in ((0, 0, 1e-9, 1e-9), (1 - 1e-9, 1 - 1e-9, 1e-9, 1e-9)):
        assert cropped(image, roi).shape == (1, 1, 3)
        assert prepare_frame(cropped(image, roi), 16, 16).shape == (16, 16, 3)
    np.testing.assert_array_equal(cropped(image, (0.5, 0.25, 0.5, 0.5)), image[1:3, 3:])


def test_a_camera_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="door"):
        open_camera(CameraSettings(name="door", source=Secret(str(tmp_path / "none.mp4"))))


def test_cameras_and_videos_are_not_watched_together_nor_one_twice(
    bundle: Bundle, write_video: Callable[..., Path]
) -> None:
    video = write_video("a.mp4", ["red"] * 5)
    with pytest.raises(VideoError, match="videos"), open_session(bundle, [0, video]):
        pass
    with pytest.raises(VideoError, match="twice"):
        cameras_of(Source(streams=(Paced("a"), Paced("a"))), TIMING)


def test_a_session_over_two_cameras_watches_both(bundle: Bundle) -> None:
    source = Source(streams=(Paced("a", "red"), Paced("b", "blue")))
    with open_session(bundle, source, engines=ENGINES, window_s=0.2, hop_s=0.05) as session:
        assert isinstance(session, Cameras)
        results = take(session, each_has(3, "a", "b"))
    assert {(r.source, r.top[0].class_name) for r in results} == {("a", "red"), ("b", "blue")}
    assert math.isfinite(results[-1].elapsed_s)


def test_that_the_only_camera_is_lost_is_told_before_it_is_back(bundle: Bundle) -> None:
    camera = Paced("a")
    lost: list[str] = []

    def plug_in(name: str) -> None:
        lost.append(name)
        camera.is_away.clear()

    last_resort = threading.Timer(5.0, camera.is_away.clear)
    options = RunOptions(engines=ENGINES, window_s=0.2, hop_s=0.05)
    source = Source(streams=(camera,))  # type: ignore[arg-type]
    with open_session(bundle, source, options=options, hooks=Hooks(on_lost=plug_in)) as session:
        for count, _ in enumerate(session):
            if count == 2:
                camera.is_away.set()
                last_resort.start()
            if camera.opened == 2:
                told = lost.copy()  # at the end it is told once more
                break
    last_resort.cancel()
    assert told == ["a"]


def test_the_only_camera_has_a_gate_for_still_scenes_too(bundle: Bundle) -> None:
    camera = Paced("a", "red")
    still: list[float] = []

    def move(name: str, time_s: float) -> None:
        still.append(time_s)
        if len(still) == 20:
            camera.image = picture("blue")

    options = RunOptions(engines=ENGINES, window_s=0.2, hop_s=0.05, still=4.0, max_seconds=60)
    source = Source(streams=(camera,))  # type: ignore[arg-type]
    with open_session(bundle, source, options=options, hooks=Hooks(on_still=move)) as session:
        results = take(session, lambda found: found[-1].top[0].class_name == "blue")
    assert len(still) >= 20 > len(results)
    assert still == sorted(still)


def test_the_only_camera_must_be_there_at_the_start(bundle: Bundle) -> None:
    camera = Paced("a")
    camera.is_away.set()
    options = RunOptions(engines=ENGINES, still=4.0, max_seconds=5)
    source = Source(streams=(camera,))  # type: ignore[arg-type]
    with (
        pytest.raises(VideoError, match="opened"),
        open_session(bundle, source, options=options) as session,
    ):
        next(iter(session), None)


def test_what_the_policy_saw_of_two_cameras_is_not_recorded(bundle: Bundle, tmp_path: Path) -> None:
    from ffn_edge.runtime.run import run_session
    from ffn_edge.runtime.summary import Summary

    source = Source(streams=(Paced("a"), Paced("b")))
    with pytest.raises(FfnEdgeError, match="one camera"):
        run_session(bundle, source, Limits(), summary=Summary(), record=tmp_path / "trace.jsonl")
