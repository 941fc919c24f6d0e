"""What the board keeps, and what it gives to whom."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest

from benchmarks.page import answer, event
from ffn_edge.runtime.outputs.output import Status
from ffn_edge.runtime.policy.interface import Limits, Sensed
from ffn_edge.runtime.serve.board import SHOWN_S, Board

Show = Callable[..., None]

START = 1_800_000_000.0


def test_a_snapshot_tells_the_latest_answer_of_each_camera() -> None:
    board = Board(["door", "yard"])
    board.result(answer("door", "fall"))
    board.result(
        answer(
            "door",
            "wave",
            frames=4,
            latency_ms=90.0,
            reason="keeps the budget",
            limits=Limits(latency_ms=80, power_w=12),
            sensed=Sensed(power_w=9.0, temperature_c=50.0),
        )
    )

    door, yard = board.snapshot()["cameras"]

    assert (door["name"], door["class"], door["frames"]) == ("door", "wave", 4)
    assert (door["reason"], set(door["rejected"])) == ("keeps the budget", {"16"})
    assert (door["latency_ms"], door["deadline_ms"], door["late"]) == (90.0, 80, 1)
    assert (door["power_w"], door["budget_w"], door["temperature_c"]) == (9.0, 12, 50.0)
    assert yard == {"index": 1, "name": "yard", "state": "waiting"}


def test_power_that_is_told_seldom_stays_until_it_is_told_again_or_fails() -> None:
    board, shown = Board(["door"]), []
    for sensed in (Sensed(power_w=9.0), Sensed(), Sensed(fault="it is gone"), Sensed()):
        board.result(answer("door", sensed=sensed))
        shown.append(board.snapshot()["cameras"][0]["power_w"])
    assert shown == [9.0, 9.0, None, None]


def test_changes_are_what_is_newer_than_a_revision() -> None:
    board = Board(["door", "yard"], lambda: [Status(name="mqtt")])
    before = board.snapshot()

    assert board.changes(before["revision"]).keys() == {"revision", "now"}

    board.result(answer("yard"))
    changes = board.changes(before["revision"])

    assert [each["name"] for each in changes["cameras"]] == ["yard"]
    assert len(changes["history"]) == 1
    assert "events" not in changes
    assert "outputs" not in changes


def test_an_event_that_ends_takes_the_place_of_its_begin() -> None:
    board = Board(["door"], clock=lambda: START + 10)
    whole = event(1, "door", "wave", START, 4.0)

    board.event(replace(whole, end_s=None))
    (begun,) = board.snapshot()["events"]
    board.event(whole)
    (ended,) = board.snapshot()["events"]

    assert (begun["began_at"], begun["ended_at"]) == (START, None)
    assert ended == {**begun, "ended_at": START + 4}


def test_an_event_of_a_recording_began_when_the_board_heard_of_it() -> None:
    now = [START]
    board = Board(["film"], clock=lambda: now[0])
    recorded = replace(event(1, "film", "wave", 0.0, 3.0), began_at=None)

    board.event(replace(recorded, end_s=None))
    now[0] += 100
    board.event(recorded)

    (shown,) = board.snapshot()["events"]
    assert (shown["began_at"], shown["ended_at"]) == (START, START + 3)


def test_nothing_grows_without_an_end() -> None:
    now = [START]
    board = Board(["door"], clock=lambda: now[0])
    for number in range(3000):
        now[0] += 4
        board.event(event(number, "door", "wave", now[0] - 1, 1.0))
        board.event(replace(event(-number - 1, "door", "fall", now[0], 1.0), end_s=None))
        board.result(answer("door", latency_ms=100.0))
        board.result(answer(f"stranger {number}"))

    found = board.snapshot()

    assert len(found["events"]) == 200
    assert len(found["history"]) == SHOWN_S / 4
    assert len(found["cameras"]) == 1
    assert (found["cameras"][0]["late"], found["cameras"][0]["judged"]) == (100, 100)


def test_old_events_are_not_shown() -> None:
    now = [START]
    board = Board(["door"], clock=lambda: now[0])
    board.event(event(1, "door", "wave", START, 4.0))
    now[0] += SHOWN_S + 5

    assert board.snapshot()["events"] == []


def test_a_step_of_the_charts_holds_the_slowest_answer_and_the_mean_of_frames() -> None:
    board = Board(["door"], clock=lambda: START)
    for frames, latency_ms in ((4, 20.0), (16, 90.0), (4, 30.0)):
        board.result(answer("door", frames=frames, latency_ms=latency_ms))

    assert board.snapshot()["history"] == [[START, 90.0, 80, 9.4, 12, 58.0, 8.0]]


def test_who_is_lost_silent_or_in_trouble_is_a_fault(show: Show) -> None:
    statuses = [Status(name="mqtt", fault="refused"), Status(name="files"), None]
    board = Board(["door", "yard", "film"], lambda: statuses, lately_s=0.0)
    board.lost("door", "no route")
    board.end("film")
    time.sleep(0.01)

    door, yard, mqtt = board.faults()

    assert "door" in door and "no route" in door
    assert "yard" in yard and "answer" in yard
    assert mqtt == "mqtt: refused"


def test_a_camera_that_answers_or_is_still_is_well(show: Show) -> None:
    board = Board(["door", "yard"], lately_s=60.0)
    board.lost("door")
    show(board, "door")
    board.result(answer("yard"))
    board.still("yard", 3.0)

    assert board.faults() == []
    states = [(each["state"], each.get("still")) for each in board.snapshot()["cameras"]]
    assert states == [("up", None), ("waiting", True)]


def test_other_cameras_keep_what_is_known_of_those_that_stay(show: Show) -> None:
    board = Board(["door", "yard"])
    board.result(answer("yard"))
    before = board.snapshot()["revision"]

    board.set_cameras(["yard", "hall"])
    show(board, "door")
    board.result(answer("door"))
    changes = board.changes(before)

    assert changes["layout"] and changes["lately_s"] == 10
    assert [(each["name"], each.get("class")) for each in changes["cameras"]] == [
        ("yard", "wave"),
        ("hall", None),
    ]


def test_a_frame_is_kept_while_somebody_watches(show: Show) -> None:
    board = Board(["door"])
    show(board, "door")
    assert board.pictures({0: 0}, wait_s=0.0) == []  # nobody had asked

    show(board, "door", 40)
    (picture,) = board.pictures({0: 0}, wait_s=0.0)
    image = cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR)

    assert image is not None
    assert image.shape == (270, 480, 3)
    assert abs(float(image.mean()) - 40) < 3  # JPEG: rounding
    assert board.pictures({0: picture.number}, wait_s=0.0) == []


def test_a_small_picture_is_not_enlarged_and_a_slow_link_gets_a_smaller_one(show: Show) -> None:
    board = Board(["door"])
    board.pictures({0: 0}, wait_s=0.0)
    show(board, "door")

    sizes = []
    for width in (4000, 240):
        (picture,) = board.pictures({0: 0}, width, wait_s=0.0)
        image = cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        sizes.append(image.shape[:2])

    assert sizes == [(720, 1280), (135, 240)]


def test_a_picture_is_encoded_once_for_all_who_watch(
    show: Show,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ffn_edge.runtime.serve import board as module

    encoded = []
    real = module.encode_jpeg
    monkeypatch.setattr(module, "encode_jpeg", lambda *a: (encoded.append(1), real(*a))[1])
    board = Board(["door"])
    board.pictures({0: 0}, wait_s=0.0)
    found: list[int] = []
    watchers = [
        threading.Thread(target=lambda: found.append(len(board.pictures({0: 0}, wait_s=10.0))))
        for _ in range(4)
    ]
    for each in watchers:
        each.start()
    show(board, "door")
    for each in watchers:
        each.join()

    assert found == [1] * 4
    assert len(encoded) == 1


def test_a_lost_camera_has_no_picture(show: Show) -> None:
    board = Board(["door"])
    board.pictures({0: 0, 7: 0}, wait_s=0.0)  # there is no eighth
    show(board, "door")
    board.lost("door")

    assert board.pictures({0: 0}, wait_s=0.0) == []
