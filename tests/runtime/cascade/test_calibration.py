"""What is learnt from answers, and the file that keeps it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffn_edge.bundle.bundle import Bundle
from ffn_edge.errors import FfnEdgeError
from ffn_edge.runtime.cascade.calibration import (
    CALIBRATION,
    Calibration,
    Cascade,
    calibrate,
    load_calibration,
    save_calibration,
)
from ffn_edge.runtime.cascade.confidence import Labels, Logits, margins

CLIPS, CLASSES = 400, 3


def answers(strength: float, labels: Labels, seed: int) -> Logits:
    """Logits that are right more often, the stronger they are."""
    noise = np.random.default_rng(seed).normal(size=(len(labels), CLASSES))
    return (strength * np.eye(CLASSES)[labels] + noise).astype(np.float32)


@pytest.fixture
def labels() -> Labels:
    return np.random.default_rng(0).integers(CLASSES, size=CLIPS)


@pytest.fixture
def logits(labels: Labels) -> dict[int, Logits]:
    """More frames, better answers: about 65, 75 and 93 % right."""
    return {t: answers(s, labels, seed=t) for t, s in ((2, 1.0), (4, 1.5), (8, 2.5))}


@pytest.fixture
def learnt(bundle: Bundle, logits: dict[int, Logits], labels: Labels) -> Calibration:
    return calibrate(bundle, logits, labels)


def test_every_frame_count_gets_a_temperature_that_lowers_its_loss(
    bundle: Bundle, logits: dict[int, Logits], labels: Labels
) -> None:
    too_sure = {t: 5 * each for t, each in logits.items()}
    for frames, found in calibrate(bundle, too_sure, labels).confidences.items():
        assert found.temperature > 1.5, frames
        assert found.log_loss_after < found.log_loss_before
        assert found.error_after < found.error_before


def test_every_two_frame_counts_make_a_cascade(learnt: Calibration) -> None:
    assert [(c.first, c.second) for c in learnt.cascades] == [(2, 4), (2, 8), (4, 8)]
    assert learnt.clips == CLIPS


def test_thresholds_and_shares_ascend_from_none_to_all(learnt: Calibration) -> None:
    for cascade in learnt.cascades:
        assert (cascade.shares[0], cascade.shares[-1]) == (0.0, 1.0)
        assert list(cascade.shares) == pytest.approx([i / 32 for i in range(33)], abs=1 / CLIPS)
        assert list(cascade.thresholds) == sorted(set(cascade.thresholds))
        assert cascade.accuracies[0] == learnt.confidences[cascade.first].accuracy


def test_the_share_that_a_threshold_escalates_is_that_of_the_clips(
    bundle: Bundle,
) -> None:
    # The first answers are sure of eight clips, and right; unsure of eight, and wrong. The second
    # ones are right always.
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1] * 2)
    first = np.eye(CLASSES)[labels] * np.linspace(5, 6, 16)[:, None]
    first[8:] = np.eye(CLASSES)[(labels[8:] + 1) % CLASSES] * np.linspace(0.1, 0.2, 8)[:, None]
    cascade = calibrate(bundle, {2: first, 4: np.eye(CLASSES)[labels]}, labels).cascades[0]
    assert cascade.shares == tuple(i / 16 for i in range(17))
    assert cascade.accuracies == tuple(min(1.0, 0.5 + i / 16) for i in range(17))
    assert cascade.useful_share == 0.5


def test_clips_with_equal_margins_are_escalated_together(bundle: Bundle) -> None:
    labels = np.zeros(9, np.int64)
    first = np.eye(CLASSES)[labels] * np.where(np.arange(9) < 6, 1.0, 3.0)[:, None]
    cascade = calibrate(bundle, {2: first, 4: first}, labels).cascades[0]
    assert set(cascade.shares) == {0.0, 6 / 9, 1.0}


def test_a_bundle_of_one_frame_count_has_no_cascade(bundle: Bundle, labels: Labels) -> None:
    learnt = calibrate(bundle, {2: answers(1.0, labels, 0)}, labels)
    assert learnt.cascades == ()


def test_labels_of_another_set_are_refused(
    bundle: Bundle, logits: dict[int, Logits], labels: Labels
) -> None:
    with pytest.raises(FfnEdgeError, match="chance") as caught:
        calibrate(bundle, {t: -each for t, each in logits.items()}, labels)
    assert "belong to this bundle" in caught.value.hint


def test_answers_no_better_than_chance_are_refused(bundle: Bundle) -> None:
    with pytest.raises(FfnEdgeError, match="chance"):
        calibrate(bundle, {2: np.ones((9, CLASSES))}, np.arange(9) % CLASSES)


def test_labels_drawn_at_random_are_refused(bundle: Bundle) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):  # by accuracy above 1/classes alone, every fourth draw would pass
        logits, labels = rng.normal(size=(200, CLASSES)), rng.integers(CLASSES, size=200)
        with pytest.raises(FfnEdgeError, match="chance"):
            calibrate(bundle, {2: logits}, labels)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_answers_that_are_no_numbers_are_refused(
    bundle: Bundle, logits: dict[int, Logits], labels: Labels, wrong: float
) -> None:
    logits[4][17, 1] = wrong
    with pytest.raises(FfnEdgeError, match="engine of 4 frames answered with what is no number"):
        calibrate(bundle, logits, labels)


def test_one_class_is_refused(bundle: Bundle) -> None:
    with pytest.raises(FfnEdgeError, match="chance"):
        calibrate(bundle, {2: np.zeros((9, 1))}, np.zeros(9, np.int64))


def cascade_of(**changes: Any) -> Cascade:
    fields: dict[str, Any] = {
        "first": 2,
        "second": 4,
        "weights": (0.0, 1.0),
        "thresholds": (0.1, 0.2, 0.6, 1.0),
        "shares": (0.0, 0.25, 0.5, 1.0),
        "accuracies": (0.5, 0.7, 0.8, 0.8),
    }
    return Cascade(**{**fields, **changes})


def test_the_best_row_is_the_cheapest_of_the_most_accurate_within_the_share() -> None:
    rows = [cascade_of().best_within(share) for share in (0.0, 0.24, 0.25, 0.49, 0.5, 1.0, 7.0)]
    assert rows == [0, 0, 1, 1, 2, 2, 2]


def test_a_threshold_between_two_rows_lies_between_theirs() -> None:
    thresholds = [cascade_of().threshold_for(share) for share in (0.25, 0.375, 0.5, 1.0)]
    assert thresholds == pytest.approx([0.2, 0.4, 0.6, 1.0])


def test_a_share_of_nothing_or_less_escalates_nothing() -> None:
    assert [cascade_of().threshold_for(share) for share in (0.0, -0.5)] == [0.0, 0.0]


def test_what_is_saved_is_loaded_as_it_was(bundle: Bundle, learnt: Calibration) -> None:
    save_calibration(bundle, learnt)
    assert load_calibration(bundle) == learnt


def test_a_bundle_without_a_calibration_says_how_to_make_one(bundle: Bundle) -> None:
    with pytest.raises(FfnEdgeError, match="is not calibrated") as caught:
        load_calibration(bundle)
    assert "ffn-edge calibrate" in caught.value.hint


def test_the_calibration_of_another_bundle_is_refused(bundle: Bundle, learnt: Calibration) -> None:
    save_calibration(bundle, dataclasses.replace(learnt, bundle="0" * 64))
    with pytest.raises(FfnEdgeError, match="belongs to bundle 000000000000, not to"):
        load_calibration(bundle)


def test_a_folder_that_cannot_be_written_is_named(
    bundle: Bundle, learnt: Calibration, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FfnEdgeError, match="could not be written"):
        save_calibration(dataclasses.replace(bundle, path=tmp_path / "file"), learnt)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}"])
def test_a_file_that_is_no_calibration_is_refused(bundle: Bundle, text: str) -> None:
    (bundle.path / CALIBRATION).write_text(text)
    with pytest.raises(FfnEdgeError, match="is not a calibration") as caught:
        load_calibration(bundle)
    assert "ffn-edge calibrate" in caught.value.hint


def test_a_file_that_is_no_text_is_refused(bundle: Bundle) -> None:
    (bundle.path / CALIBRATION).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FfnEdgeError, match=r"cannot be read|no text"):
        load_calibration(bundle)


Fields = dict[str, Any]
Fault = Callable[[Fields], object]


def cascade(fields: Fields) -> Fields:
    found: Fields = fields["cascades"][0]
    return found


def confidence(fields: Fields) -> Fields:
    found: Fields = fields["confidences"]["2"]
    return found


FAULTS: dict[str, Fault] = {
    "missing field": lambda f: f.pop("clips"),
    "no clip": lambda f: f.update(clips=0),
    "clips in words": lambda f: f.update(clips="many"),
    "endless clips": lambda f: f.update(clips=float("inf")),
    "confidences in a list": lambda f: f.update(confidences=[]),
    "frame count in words": lambda f: f["confidences"].update(two=confidence(f)),
    "frame count missing": lambda f: f["confidences"].pop("2"),
    "no frame count": lambda f: f.update(confidences={}, cascades=[]),
    "temperature zero": lambda f: confidence(f).update(temperature=0),
    "temperature NaN": lambda f: confidence(f).update(temperature=float("nan")),
    "temperature endless": lambda f: confidence(f).update(temperature=float("inf")),
    "accuracy above 1": lambda f: confidence(f).update(accuracy=81.5),
    "error below 0": lambda f: confidence(f).update(error_after=-0.1),
    "log loss NaN": lambda f: confidence(f).update(log_loss_before=float("nan")),
    "cascades missing": lambda f: f.update(cascades=[]),
    "cascade twice": lambda f: f["cascades"].append(cascade(f)),
    "cascade backwards": lambda f: cascade(f).update(first=4, second=2),
    "cascade of another frame count": lambda f: cascade(f).update(second=5),
    "one weight": lambda f: cascade(f).update(weights=[1.0]),
    "weight below 0": lambda f: cascade(f).update(weights=[-1.0, 1.0]),
    "weights zero": lambda f: cascade(f).update(weights=[0.0, 0.0]),
    "weights NaN": lambda f: cascade(f).update(weights=[float("nan"), 1.0]),
    "columns of unequal length": lambda f: cascade(f)["shares"].pop(),
    "columns of no row": lambda f: cascade(f).update(thresholds=[], shares=[], accuracies=[]),
    "thresholds fall": lambda f: cascade(f)["thresholds"].reverse(),
    "thresholds NaN": lambda f: cascade(f)["thresholds"].__setitem__(3, float("nan")),
    "shares fall": lambda f: cascade(f)["shares"].reverse(),
    "shares begin above 0": lambda f: cascade(f)["shares"].__setitem__(0, 0.01),
    "shares above 1": lambda f: cascade(f)["shares"].__setitem__(-1, 32),
    "accuracies of a cascade in words": lambda f: cascade(f)["accuracies"].__setitem__(0, "good"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_calibration_is_refused(bundle: Bundle, learnt: Calibration, fault: str) -> None:
    fields = json.loads(learnt.to_json())
    FAULTS[fault](fields)
    (bundle.path / CALIBRATION).write_text(json.dumps(fields))
    with pytest.raises(FfnEdgeError, match="is damaged") as caught:
        load_calibration(bundle)
    assert "ffn-edge calibrate" in caught.value.hint


def test_an_unknown_schema_version_is_refused(bundle: Bundle, learnt: Calibration) -> None:
    fields = json.loads(learnt.to_json()) | {"schema_version": 2}
    (bundle.path / CALIBRATION).write_text(json.dumps(fields))
    with pytest.raises(FfnEdgeError, match="schema version 2; this release reads 1"):
        load_calibration(bundle)


def test_an_engine_that_rounds_beyond_a_margin_is_told_of(learnt: Calibration) -> None:
    assert learnt.below_rounding({}) == []
    assert learnt.below_rounding({4: 1e-6, 2: 0.0}) == []
    found = learnt.below_rounding({4: 10.0})
    assert [(cascade.first, cascade.second) for cascade in found] == [(4, 8)]


def test_no_margin_moves_further_than_its_bound(learnt: Calibration) -> None:
    # So an error that `below_rounding` lets pass changes no choice of a clip at the threshold.
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=3, size=(2000, CLASSES))
    error = 0.1
    moved = logits + rng.choice([-error, error], size=logits.shape)
    for temperature in (0.3, 1.0, 4.0):
        change = np.abs(margins(moved, temperature) - margins(logits, temperature))
        assert change.max() <= error / temperature
