"""What validation clips tell of a bundle's answers: how sure to be, and when more frames pay.

Kept as `calibration.json` beside the bundle's manifest, which it belongs to.

Legend: N clips, C classes. A cascade answers with few frames where that answer's margin is large
enough, and escalates the other clips to more frames.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone

import numpy as np

from ffn_edge.bundle.bundle import Bundle, Precision
from ffn_edge.errors import FfnEdgeError
from ffn_edge.files.atomic import write_text
from ffn_edge.files.schema import Above0, Format, NotNegative, Positive, Share
from ffn_edge.runtime.cascade.confidence import (
    Labels,
    Logits,
    accuracy,
    calibration_error,
    fit_scales,
    log_loss,
    margins,
)
from ffn_edge.runtime.events.rules import EventRules

SCHEMA_VERSION = 1
CALIBRATION = "calibration.json"

_SHARES = 32  # equal steps of the share that a cascade escalates


# Nats that the answers of a frame count must gain over a guess, on all clips together. Answers to
# labels drawn at random get there once in 1000 draws at most, since the gain is the logarithm of a
# likelihood ratio (Markov); accuracy above 1/classes alone is reached in every fourth.
_LEAST_GAIN = math.log(1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Confidence:
    """One frame count alone, on the validation clips.

    Attributes:
        temperature: what its logits are divided by, to be probabilities that hold.
        accuracy: in 0..1.
        log_loss_before: of the logits as they are, in nats.
        log_loss_after: of the logits over the temperature.
        error_before: the expected calibration error, in 0..1.
        error_after: the same over the temperature.
    """

    temperature: Above0
    accuracy: Share
    log_loss_before: NotNegative
    log_loss_after: NotNegative
    error_before: Share
    error_after: Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascade:
    """Two frame counts, one after the other where the first is not sure.

    Its columns run from no clip escalated to all.

    Attributes:
        first: the frame count that every clip gets.
        second: the one that only some get, larger.
        weights: of the two's logits, in the answer to a clip that got both.
        thresholds: of the first answer's margin, ascending; smaller ones are escalated.
        shares: of the clips that a threshold escalates, in 0..1.
        accuracies: of the whole with that threshold, in 0..1.
    """

    first: int
    second: int
    weights: tuple[NotNegative, NotNegative]
    thresholds: tuple[Share, ...]
    shares: tuple[Share, ...]
    accuracies: tuple[Share, ...]

    def __post_init__(self) -> None:
        lengths = {len(self.thresholds), len(self.shares), len(self.accuracies)}
        ascend = all(list(each) == sorted(each) for each in (self.thresholds, self.shares))
        if len(lengths) > 1 or self.shares[:1] != (0.0,) or not ascend or not any(self.weights):
            raise ValueError(
                "a cascade has rows of ascending thresholds, the first of which escalates none, "
                "and a weight that is positive"
            )

    def best_within(self, share: float) -> int:
        """Return the row of the best accuracy that escalates at most `share`; ties to fewer."""
        affordable = self.accuracies[: bisect_right(self.shares, share)]
        return affordable.index(max(affordable))

    @property
    def useful_share(self) -> float:
        """The smallest share of the best accuracy: to escalate more gained nothing."""
        return self.shares[self.best_within(1.0)]

    def threshold_for(self, share: float) -> float:
        """Return the margin below which to escalate, so that of such clips `share` are.

        A share of 0 or less escalates none.
        """
        return float(np.interp(share, self.shares, self.thresholds)) if share > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """All that was learnt from the validation clips.

    Attributes:
        bundle: the identity of the bundle.
        clips: how many there were.
        created: when, in ISO 8601.
        precisions: of the engines that answered; empty where an older release did not tell.
        confidences: by frame count, each of the bundle's.
        cascades: of each two of them.
        events: the rules of events in clips; None where no labelled stream told.
        step_events: the same of streams that are followed frame by frame.
        still: the largest difference of two frames, in 0..255, at which nothing has moved; None
            where no labelled stream told.
    """

    bundle: str
    clips: Positive
    created: str
    precisions: Mapping[int, Precision] = field(default_factory=dict)
    confidences: Mapping[int, Confidence]
    cascades: tuple[Cascade, ...]
    events: EventRules | None = None
    step_events: EventRules | None = None
    still: NotNegative | None = None

    def __post_init__(self) -> None:
        pairs = [(cascade.first, cascade.second) for cascade in self.cascades]
        if sorted(pairs) != list(itertools.combinations(sorted(self.confidences), 2)):
            raise ValueError("a calibration has a cascade of each two frame counts")

    @property
    def temperatures(self) -> dict[int, float]:
        """What the logits of each frame count are divided by."""
        return {frames: each.temperature for frames, each in self.confidences.items()}

    def below_rounding(self, logit_errors: Mapping[int, float]) -> list[Cascade]:
        """Return the cascades whose choice an engine's rounding may decide.

        The margin below which a cascade asks its second frame count is smaller there than what the
        first one's error may move a margin by. Where each of two logits is off by e, their
        difference is by 2 e, and of two classes the margin tanh(d / 2τ) by e / τ at most.

        Args:
            logit_errors: by frame count, the largest |Δlogit| of an engine; others have none.
        """
        return [
            cascade
            for cascade in self.cascades
            if cascade.threshold_for(cascade.useful_share)
            < logit_errors.get(cascade.first, 0) / self.confidences[cascade.first].temperature
            and cascade.useful_share > 0
        ]

    def to_json(self) -> str:
        """Return the text of `calibration.json`."""
        fields = {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}
        return json.dumps(fields, indent=1) + "\n"


_FORMAT = Format(
    cls=Calibration,
    versions=(SCHEMA_VERSION,),
    kind="a calibration",
    hint="calibrate with `ffn-edge calibrate BUNDLE --list val.txt`.",
)


def calibrate(
    bundle: Bundle,
    logits: Mapping[int, Logits],
    labels: Labels,
    precisions: Mapping[int, Precision] | None = None,
) -> Calibration:
    """Learn temperatures and cascades from what the engines answered to validation clips.

    Args:
        bundle: what was asked.
        logits: by frame count, each of the bundle's: float (N, C).
        labels: of the clips.
        precisions: of the engines.

    Raises:
        FfnEdgeError: an answer is not a number, or the answers are no better than chance.
    """
    confidences = {t: _learn_confidence(t, answers, labels) for t, answers in logits.items()}
    return Calibration(
        bundle=bundle.identity,
        clips=len(labels),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        precisions=precisions or {},
        confidences=confidences,
        cascades=tuple(
            _learn_cascade(first, second, confidences[first].temperature, logits, labels)
            for first, second in itertools.combinations(sorted(logits), 2)
        ),
    )


def save_calibration(bundle: Bundle, calibration: Calibration) -> None:
    """Write `calibration.json` into the bundle's folder, atomically."""
    write_text(bundle.path / CALIBRATION, calibration.to_json())


def load_calibration(bundle: Bundle) -> Calibration:
    """Read the calibration in a bundle's folder.

    Raises:
        FfnEdgeError: there is none, it cannot be read, or it belongs to another bundle.
    """
    path = bundle.path / CALIBRATION
    calibration = _FORMAT.read(path, missing=f"{bundle.path} is not calibrated")
    if calibration.bundle != bundle.identity:
        raise FfnEdgeError(
            f"{path} belongs to bundle {calibration.bundle[:12]}, not to {bundle.identity[:12]}",
            _FORMAT.hint,
        )
    if set(calibration.confidences) != set(bundle.manifest.frame_counts):
        raise FfnEdgeError(
            f"{path} is damaged: it has other frame counts than the bundle", _FORMAT.hint
        )
    return calibration


def _learn_confidence(frames: int, answers: Logits, labels: Labels) -> Confidence:
    if not np.isfinite(answers).all():
        raise FfnEdgeError(
            f"the engine of {frames} frames answered with what is no number",
            "`ffn-edge verify` tells whether the engines compute what the network does.",
        )
    classes = answers.shape[-1]
    (scale,) = fit_scales(answers[None], labels)
    right, loss = accuracy(answers, labels), log_loss(answers * scale, labels)
    if len(labels) * (math.log(classes) - loss) <= _LEAST_GAIN:
        raise FfnEdgeError(
            f"the answers of {frames} frames, right for {right:.1%} of {len(labels)} clips of "
            f"{classes} classes, cannot be told from chance",
            "take more clips; or does the list belong to this bundle? Its labels are numbers of "
            "the bundle's classes, in their order.",
        )
    return Confidence(
        temperature=float(1 / scale),
        accuracy=right,
        log_loss_before=log_loss(answers, labels),
        log_loss_after=loss,
        error_before=calibration_error(answers, labels),
        error_after=calibration_error(answers * scale, labels),
    )


def _learn_cascade(
    first: int, second: int, temperature: float, logits: Mapping[int, Logits], labels: Labels
) -> Cascade:
    both = np.stack([logits[first], logits[second]])
    weights = fit_scales(both, labels)
    right_first = both[0].argmax(axis=-1) == labels
    right_both = np.tensordot(weights, both, 1).argmax(axis=-1) == labels
    margin = margins(both[0], temperature)
    ascending = np.append(np.sort(margin), 1.0)
    counts = np.unique(np.linspace(0, len(labels), _SHARES + 1).round().astype(int))
    thresholds = ascending[counts]
    escalated = margin < thresholds[:, None]  # (rows, N)
    right = np.where(escalated, right_both, right_first)
    return Cascade(
        first=first,
        second=second,
        weights=(float(weights[0]), float(weights[1])),
        thresholds=tuple(thresholds.tolist()),
        shares=tuple(escalated.mean(axis=-1).tolist()),
        accuracies=tuple(right.mean(axis=-1).tolist()),
    )
