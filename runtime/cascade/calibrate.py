"""From labelled videos to a calibration: what every engine answers to the same clips.

Legend: N videos, T frames of a clip, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ffn_edge.bundle.bundle import Bundle, InputContract
from ffn_edge.media.clips import centre_clips, read_checked_list
from ffn_edge.media.video_list import Video
from ffn_edge.runtime.cascade.calibration import Calibration, calibrate
from ffn_edge.runtime.cascade.confidence import Labels
from ffn_edge.runtime.engines.engine import Choose, Engine, EngineOptions, Logits, open_engines

_log = logging.getLogger(__name__)
_DEFAULTS = EngineOptions()


def calibrate_bundle(
    bundle: Bundle,
    list_file: Path,
    options: EngineOptions = _DEFAULTS,
    *,
    precisions: Choose | None = None,
    root: Path | None = None,
    on_video: Callable[[int, int], None] = lambda done, total: None,
) -> Calibration:
    """Run every engine on labelled videos, and learn from it; `save_calibration` keeps that.

    Args:
        bundle: what to calibrate.
        list_file: one `path label` a line; clips that the network was not trained on.
        options: what runs the engines.
        precisions: see `open_engines`; what `run` goes by, since thresholds belong to the engines
            that they were learnt from.
        root: the folder that the list's paths are relative to; the list's own if None.
        on_video: see `answer_videos`.

    Raises:
        DataError: the list is wrong, or none of its videos can be read.
        BundleError: the bundle takes several clips at once.
        EngineError: the backend is not installed, or cannot run the bundle.
        FfnEdgeError: the answers say nothing of the labels.
    """
    contract = bundle.manifest.input
    contract.check_streamable()
    videos = read_checked_list(list_file, classes=bundle.manifest.classes, root=root)
    with open_engines(bundle, options, precisions=precisions) as engines:
        logits, labels = answer_videos(engines, contract, videos, on_video=on_video)
    return calibrate(bundle, logits, labels, engines.precisions)


def answer_videos(
    engines: Mapping[int, Engine],
    contract: InputContract,
    videos: Sequence[Video],
    *,
    on_video: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[int, Logits], Labels]:
    """Classify the same videos at every frame count, as `ffn-edge evaluate` does.

    A video that cannot be read is left out, and logged. `on_video` is called with (videos done,
    videos in all). Returns by frame count the logits, float32 (N, C), and the labels, int64 (N,).

    Raises:
        DataError: not one video can be read.
        EngineError: an engine failed.
    """
    answers: dict[int, list[Logits]] = {frames: [] for frames in engines}
    labels = []
    for video, clips in centre_clips(
        videos,
        engines,
        short_side=contract.short_side,
        size=contract.height,
        window_s=contract.window_s,
        on_video=on_video,
    ):
        for frames, clip in clips.items():
            answers[frames].append(engines[frames].infer(clip[None])[0])
        labels.append(video.label)
    return {t: np.stack(each) for t, each in answers.items()}, np.asarray(labels, np.int64)
