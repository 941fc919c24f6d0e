"""The page of `ffn-edge evaluate --report`: what a network learned, and what more frames mend."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib import pyplot

import ffn_edge
from ffn_edge.errors import counted
from ffn_edge.files.atomic import write_text
from ffn_edge.files.figure import COLOURS
from ffn_edge.files.markup import data_url, page, svg, table, text
from ffn_edge.media.opencv import opencv
from ffn_edge.train.answers import (
    LEAST_CHANGED,
    LEVEL,
    Answers,
    Calibration,
    Changes,
    PairOfClasses,
    interval,
)
from ffn_edge.train.data import VideoDataset
from ffn_edge.train.evaluate import Row

# Bounds of the page: it stays below 1.5 MB, whatever was evaluated.
_DETAILED = 5  # frame counts
_MATRIX = 30  # classes in a confusion matrix; a larger one is no picture
_LISTED = 20  # pairs of classes, or lines of names
_PAIRS = 10
_CLIPS = 12
_STRIP_FRAMES = 16
_STRIP_SIDE = 112  # pixels
_STRIP_BYTES = 60_000
_QUALITIES = (80, 60, 40, 20, 5)  # of JPEG

_SHADES = 10
_FRAME_S = 0.15

_STYLE = """
th, td:first-child { white-space: normal } td:first-child { min-width: 5rem }
svg { max-width: 36rem }
@media (max-width: 40rem) { th, td { padding: .25rem .35rem } }
.choice input { margin: 0 .3rem 0 1rem } .choice > div { display: none }
.matrix td, .matrix th { padding: .15rem .35rem; border: 0; font-size: .85rem; text-align: center }
.matrix th:first-child { position: sticky; left: 0; background: #fff; max-width: 9rem;
                         overflow: hidden; text-overflow: ellipsis; font-weight: 400;
                         text-align: left; white-space: nowrap }
.film { aspect-ratio: 1; background-repeat: no-repeat; background-color: #dee2e6 }
.film:hover { animation-play-state: paused }
@keyframes film { from { background-position-x: 0 } to { background-position-x: 100% } }
@media (prefers-reduced-motion: reduce) { .film { animation: none !important } }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: 1rem }
.cards figcaption { overflow-wrap: anywhere }
"""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the page is made of.

    Attributes:
        checkpoint: the file.
        list_file: of the videos.
        classes: their names.
        rows: accuracy and cost by frame count.
        answers: at the frame counts of `rows`; one at least.
        videos: that were read.
        folder: from which their paths are shown.
        broken: why some could not be read.
    """

    checkpoint: str
    list_file: str
    classes: Sequence[str]
    rows: Sequence[Row]
    answers: Answers
    videos: VideoDataset
    folder: Path
    broken: Sequence[str]

    @property
    def detailed(self) -> Answers:
        """The answers at a few frame counts: trained ones, where there are two; the ends always."""
        trained = [row.frames for row in self.rows if row.frames == row.sub_network]
        counts = trained if len(trained) > 1 else [row.frames for row in self.rows]
        places = np.linspace(0, len(counts) - 1, min(_DETAILED, len(counts))).round()
        return self.answers.at([counts[int(place)] for place in places])


def write_page(found: Evaluation, path: str | os.PathLike[str]) -> None:
    """Write the page, atomically; a few of the videos are read again for their pictures.

    Raises:
        WriteError: it cannot be written.
    """
    matplotlib.use("Agg")
    answers = found.detailed
    now = f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"
    name = Path(found.checkpoint).name
    sections = (
        f"<h1>{_headline(answers)}</h1>",
        f"<p class=lead>{text(found.checkpoint)} on {text(found.list_file)}: "
        f"{counted(len(answers), 'clip')}.</p>",
        _left_out(found),
        "<h2>What more frames buy</h2>",
        _gain(found, answers),
        _accuracy_plot(found.rows, answers),
        _accuracy_table(found.rows),
        "<h2>Which classes need more frames</h2>",
        _pairs(found.classes, answers),
        "<h2>Class by class</h2>",
        _class_table(found.classes, answers),
        "<h2>What is taken for what</h2>",
        _confusion(found.classes, answers),
        "<h2>The clips it is most wrong about</h2>",
        _clips(found, answers),
        "<h2>Whether its probabilities hold</h2>",
        _calibration(answers),
        f"<p class=note>ffn-edge {ffn_edge.__version__}; {now}.</p>",
    )
    steps = min(_STRIP_FRAMES, answers.frame_counts[-1])
    style = (
        f".film {{ background-size: {100 * steps}% 100%; "
        f"animation: film {_FRAME_S * steps:.2f}s steps({steps}, jump-none) infinite }}\n"
        + "".join(
            f"#t{frames}:checked ~ #at{frames} {{ display: block }}\n"
            for frames in answers.frame_counts
        )
        + "".join(
            f".s{shade} {{ background: rgba(11, 114, 133, {shade / _SHADES:.1f}) }}\n"
            for shade in range(1, _SHADES + 1)
        )
        + f".s{_SHADES - 2}, .s{_SHADES - 1}, .s{_SHADES} {{ color: #fff }}\n"
    )
    write_text(path, page(f"evaluation of {name}", "\n".join(sections), _STYLE + style))


def _headline(answers: Answers) -> str:
    high, *others = [
        f"{accuracy.top1:.1%} of the clips with {counted(frames, 'frame')}"
        for frames, accuracy in reversed(answers.accuracy().items())
    ]
    return f"Right for {high}" + (f", {others[-1]}" if others else "")


def _left_out(found: Evaluation) -> str:
    """Name the videos that could not be read, and classes that had no clip."""
    words = ""
    clips = np.bincount(found.answers.labels, minlength=len(found.classes))
    if empty := [name for name, number in zip(found.classes, clips, strict=True) if not number]:
        words += (
            f"<p class=note>Of {len(empty)} of {counted(len(found.classes), 'class', 'classes')} "
            f"the list has no clip: {_listing(empty)}.</p>"
        )
    if found.broken:
        reasons = [reason.replace(f"{found.folder}/", "") for reason in found.broken]
        words += (
            f"<p class=note>{counted(len(reasons), 'video')} could not be read, and "
            f"{'is' if len(reasons) == 1 else 'are'} left out: {_listing(reasons, '; ')}.</p>"
        )
    return words


def _listing(names: Sequence[str], between: str = ", ", most: int = _LISTED) -> str:
    shown = between.join(map(text, names[:most]))
    return shown + (f"{between}and {len(names) - most} more" if len(names) > most else "")


def _gain(found: Evaluation, answers: Answers) -> str:
    """Say in a sentence or two what the highest frame count is worth."""
    low, high = answers.frame_counts[0], answers.frame_counts[-1]
    if low == high:
        return "<p>One frame count was measured, so nothing is compared.</p>"
    cost = {row.frames: row.gmacs for row in found.rows}
    accuracy = answers.accuracy()
    gain = accuracy[high].top1 - accuracy[low].top1
    changes = answers.changes()
    words = (
        f"From {low} to {high} frames, for {cost[high] / cost[low]:.1f} times the arithmetic, "
        f"top-1 changes by {100 * gain:+.1f} points: {counted(changes.gained, 'clip')} that {low} "
        f"frames get wrong {'is' if changes.gained == 1 else 'are'} right with {high}, and "
        f"{changes.lost} the other way round. {_verdict(changes, changes.chance)}"
    )
    between = [frames for frames in answers.frame_counts[1:-1] if gain > 0]
    if between and changes.chance < LEVEL:
        words += " Of that gain, " + ", ".join(
            f"{frames} frames give {(accuracy[frames].top1 - accuracy[low].top1) / gain:.0%} for "
            f"{cost[frames] / cost[low]:.1f} times the arithmetic"
            for frames in between
        )
        words += "."
    return f"<p>{words}</p>"


def _verdict(changes: Changes, chance: float) -> str:
    if not changes.can_tell():
        return (
            f"With so few clips that change, nothing can be told: it takes {LEAST_CHANGED} at "
            "least."
        )
    verdict = "That is more than chance" if chance < LEVEL else "That may be chance"
    return f"{verdict} (p {_chance(chance)})."


def _chance(chance: float) -> str:
    return f"= {chance:.2g}" if chance >= 1e-4 else "< 0.0001"


def _accuracy_plot(rows: Sequence[Row], answers: Answers) -> str:
    figure, axis = pyplot.subplots(figsize=(4.6, 2.8), layout="constrained")
    frames = [row.frames for row in rows]
    top1 = np.array([row.top1 for row in rows])
    bounds = np.array([interval(row.top1, row.clips) for row in rows]).T
    axis.errorbar(
        frames,
        100 * top1,
        100 * np.abs(bounds - top1),
        color=COLOURS[0],
        marker="o",
        markevery=[row.frames == row.sub_network for row in rows],
        capsize=3,
    )
    axis.set(ylabel="top-1, %", ylim=(0, 102), xlabel="frames, and GMAC of a clip")
    gmacs = {row.frames: row.gmacs for row in rows}
    axis.set_xticks(
        answers.frame_counts, [f"{each}\n{gmacs[each]:.3g}" for each in answers.frame_counts]
    )
    axis.grid(alpha=0.3)
    return svg(figure)


def _accuracy_table(rows: Sequence[Row]) -> str:
    cells = [
        (
            str(row.frames),
            f"{row.gmacs:.3g}",
            f"{row.top1:.1%}",
            "{:.1%} – {:.1%}".format(*interval(row.top1, row.clips)),
            f"{row.top5:.1%}",
        )
        for row in rows
    ]
    trained = {at for at, row in enumerate(rows) if row.frames == row.sub_network}
    return table(
        ("frames", "GMAC", "top-1", "95% interval", "top-5"),
        cells,
        "Bold, and a dot above: trained; the nearest trained sub-network serves the others. The "
        "interval is of what another choice of as many clips could show.",
        trained,
    )


def _pairs(classes: Sequence[str], answers: Answers) -> str:
    """Show the pairs of classes whose confusion falls most with more frames."""
    low, high = answers.frame_counts[0], answers.frame_counts[-1]
    if low == high:
        return "<p>It takes two frame counts to tell.</p>"
    pairs = answers.needing_frames()
    fewer = [pair for pair in pairs if pair.before > pair.after]
    if not fewer:
        return f"<p>No two classes are confused less often with {high} frames than with {low}.</p>"
    certain = [pair for pair in pairs if pair.chance < LEVEL]
    need = [pair for pair in certain if pair.changes.gained > pair.changes.lost]
    harmed = [pair for pair in certain if pair.changes.gained < pair.changes.lost]

    def names(found: Sequence[PairOfClasses]) -> str:
        return _listing([_pair_name(classes, pair) for pair in found], most=3)

    if need:
        words = f"By more than chance, {high} frames tell apart what {low} confuse: {names(need)}."
    elif not any(pair.changes.can_tell() for pair in pairs):
        words = (
            f"With so few clips it cannot be told of any pair whether {high} frames help: of none "
            f"do {LEAST_CHANGED} clips change. The table is a hint at most."
        )
    else:
        words = f"Of no pair is the difference between {low} and {high} frames more than chance."
    if harmed:
        words += f" More frames confuse: {names(harmed)}."
    rows = [
        (
            _pair_name(classes, pair),
            str(pair.before),
            str(pair.after),
            str(pair.changes.gained),
            str(pair.changes.lost),
            _chance(pair.chance).removeprefix("= ") if pair.changes.can_tell() else "too few",
        )
        for pair in fewer[:_PAIRS]
    ]
    headings = (
        "pair",
        f"confused at {low}",
        f"at {high}",
        f"mended by {high}",
        f"spoilt by {high}",
        "p",
    )
    return f"<p><b>{words}</b></p>" + table(
        headings,
        rows,
        f"Clips of either class taken for the other; mended: confused at {low} and right at "
        f"{high}; spoilt: the reverse. p: of so uneven a split by chance (McNemar's exact test), "
        "corrected for the number of pairs. Bold: more than chance.",
        {at for at, pair in enumerate(fewer[:_PAIRS]) if pair.chance < LEVEL},
    )


def _pair_name(classes: Sequence[str], pair: PairOfClasses) -> str:
    return f"{classes[pair.first]} ↔ {classes[pair.second]}"


def _class_table(classes: Sequence[str], answers: Answers) -> str:
    """Show accuracy by class and frame count, the worst first."""
    clips = np.bincount(answers.labels, minlength=len(classes))
    right = np.stack(
        [np.bincount(answers.labels, column, len(classes)) for column in answers.right.T], 1
    )
    there = np.flatnonzero(clips)
    shares = right[there] / clips[there, None]
    order = np.lexsort((there, *shares.T))  # by the last column, then those before it
    rows = [
        (
            classes[there[at]],
            str(clips[there[at]]),
            *(f"{share:.0%}" for share in shares[at]),
        )
        for at in order
    ]
    usual = int(statistics.median(clips[there]))
    example = "{:.0%} – {:.0%}".format(*interval(0.5, usual))
    headings = ("class", "clips", *(f"{frames} frames" for frames in answers.frame_counts))
    first = table(
        headings,
        rows[:_MATRIX],
        f"Top-1, the worst at {answers.frame_counts[-1]} frames first. Of "
        f"{counted(usual, 'clip')}, as the middle class has, 50% means {example} (95% interval).",
    )
    if len(rows) <= _MATRIX:
        return first
    others = table(headings, rows[_MATRIX:])
    return f"{first}<details><summary>{len(rows) - _MATRIX} more</summary>{others}</details>"


def _confusion(classes: Sequence[str], answers: Answers) -> str:
    if answers.right.all():
        return "<p>Every clip is right at every frame count: nothing is confused.</p>"
    if len(classes) > _MATRIX:
        return table(
            ("class", "taken for", *(f"{frames} frames" for frames in answers.frame_counts)),
            [
                (classes[each.label], classes[each.answer], *map(str, each.clips))
                for each in answers.confused()[:_LISTED]
            ],
            f"Clips; the {_LISTED} most frequent confusions at {answers.frame_counts[-1]} frames.",
        )
    last = answers.frame_counts[-1]
    choices = "".join(
        f"<input type=radio name=frames id=t{frames}{' checked' if frames == last else ''}>"
        f"<label for=t{frames}>{counted(frames, 'frame')}</label>"
        for frames in answers.frame_counts
    )
    matrices = "".join(
        f"<div id=at{frames}>{_matrix(classes, counts)}</div>"
        for frames, counts in zip(
            answers.frame_counts, answers.confusion(len(classes)).tolist(), strict=True
        )
    )
    return (
        "<p class=note>A row: the clips of a class, by the number of the class they were taken "
        "for. The darker, the larger the share of the row.</p>"
        f"<div class=choice>{choices}{matrices}</div>"
    )


def _matrix(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Return a confusion matrix as a table; classes without a clip have no row."""

    def cells(label: int, row: Sequence[int]) -> Iterator[str]:
        for answer, clips in enumerate(row):
            shade = -(-_SHADES * clips // sum(row))
            shown = f"<b>{clips}</b>" if label == answer else str(clips)
            yield f"<td class=s{shade}>{shown}" if clips else "<td>"

    rows = "\n".join(
        f"<tr><th>{label + 1} {text(classes[label])}" + "".join(cells(label, row))
        for label, row in enumerate(counts)
        if any(row)
    )
    numbers = "".join(f"<th>{number + 1}" for number in range(len(classes)))
    return f"<table class=matrix><tr><th>{numbers}\n{rows}</table>"


def _clips(found: Evaluation, answers: Answers) -> str:
    """Show the clips that the surest wrong answers were given to, as they reach the network."""
    high = answers.frame_counts[-1]
    chosen = answers.most_wrong(_CLIPS)
    if not chosen:
        return f"<p>Every clip is right with {counted(high, 'frame')}.</p>"
    cards = "".join(_card(found, answers, at) for at in chosen)
    return (
        f"<p class=note>Wrong with {counted(high, 'frame')}, and the surer of it the earlier here. "
        "Look for labels that are wrong, for two actions in one clip, and for actions that end "
        "outside the picture.</p>"
        f"<div class=cards>{cards}</div>"
    )


def _card(found: Evaluation, answers: Answers, at: int) -> str:
    index = int(answers.indices[at])
    video = found.videos.videos[index]
    path = video.path
    if path.is_relative_to(found.folder):
        path = path.relative_to(found.folder)
    clips = found.videos[0, index].clips
    strip = ""
    if clips:  # else it has gone meanwhile
        url = data_url("image/jpeg", _strip(clips[answers.frame_counts[-1]]))
        strip = f"<div class=film style='background-image: url({url})'></div>"
    label = int(answers.labels[at])
    told = "<br>".join(
        f"{counted(frames, 'frame')}: {text(found.classes[answer])} {confidence:.2f} "
        + "✗✓"[answer == label]
        for frames, answer, confidence in zip(
            answers.frame_counts,
            answers.classes[at].tolist(),
            answers.confidence[at].tolist(),
            strict=True,
        )
    )
    part = f", from {video.start_s:g} s" if (video.start_s, video.end_s) != (0, math.inf) else ""
    part += f" to {video.end_s:g} s" if video.end_s < math.inf else ""
    return (
        f"<figure>{strip}<figcaption><b>{text(found.classes[label])}</b><br>{told}<br>"
        f"{text(path)}{part}</figcaption></figure>"
    )


def _strip(clip: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return frames (T, S, S, 3), RGB, side by side as a JPEG of bounded size."""
    places = np.linspace(0, len(clip) - 1, min(_STRIP_FRAMES, len(clip))).round().astype(int)
    side = min(_STRIP_SIDE, clip.shape[1])
    frames = [
        opencv().resize(clip[place], (side, side), interpolation=opencv().INTER_AREA)
        for place in places
    ]
    strip = np.concatenate(frames, axis=1)[..., ::-1]
    for quality in _QUALITIES:
        _, encoded = opencv().imencode(".jpg", strip, [opencv().IMWRITE_JPEG_QUALITY, quality])
        if encoded.nbytes <= _STRIP_BYTES:
            break
    jpeg: npt.NDArray[np.uint8] = encoded
    return jpeg


def _calibration(answers: Answers) -> str:
    found = dict(zip(answers.frame_counts, answers.calibration(), strict=True))
    accuracy = answers.accuracy()
    worst = max(found, key=lambda frames: found[frames].error)
    each = found[worst]
    words = (
        f"At {counted(worst, 'frame')}, a probability is {100 * each.error:.1f} points off on "
        f"average; exact ones would seem {100 * each.by_chance:.1f} points off with as many clips. "
    )
    if each.error > 2 * each.by_chance:
        sure = "surer" if each.surplus > 0 else "less sure"
        words += f"It is {sure} than right; <code>ffn-edge calibrate</code> mends that in a bundle."
    else:
        words += "So they hold, as far as can be told."
    drawings = "".join(
        f"<figure>{_reliability_plot(frames, each)}</figure>" for frames, each in found.items()
    )
    rows = [
        (
            str(frames),
            f"{each.error:.3f}",
            f"{each.by_chance:.3f}",
            f"{accuracy[frames].top1 + each.surplus:.3f}",
            f"{accuracy[frames].top1:.3f}",
        )
        for frames, each in found.items()
    ]
    return (
        f"<p>{words}</p><div class=gallery>{drawings}</div>"
        "<p class=note>Points: of the answers with such a probability, the share that is right; on "
        "the line, the probability holds. Below: how many clips.</p>"
        + table(
            ("frames", "calibration error", "by chance", "mean probability", "share right"), rows
        )
    )


def _reliability_plot(frames: int, found: Calibration) -> str:
    figure, (shares, clips) = pyplot.subplots(
        2, 1, figsize=(3.4, 3.8), sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    probabilities, right, numbers = zip(*found.bins, strict=True)
    shares.plot((0, 1), (0, 1), color="#868e96", linewidth=1)
    shares.plot(probabilities, right, "o-", color=COLOURS[0])
    shares.set(xlim=(0, 1), ylim=(0, 1.03), ylabel="share right", title=f"{frames} frames")
    clips.bar(probabilities, numbers, width=0.07, color=COLOURS[0])
    for probability, number in zip(probabilities, numbers, strict=True):
        clips.annotate(str(number), (probability, number), ha="center", va="bottom", fontsize=7)
    clips.margins(y=0.25)
    clips.set(xlabel="probability", ylabel="clips")
    shares.grid(alpha=0.3)
    return svg(figure)
