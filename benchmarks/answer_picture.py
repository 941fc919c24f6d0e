"""The README's picture: a test clip of the demo, and the answers with 4, 8 and 16 of its frames.

    python -m benchmarks.answer_picture DEMO [--clip 19] [--output docs/answer.png]

DEMO is the folder of `ffn-edge demo`, whose clips are synthetic. Latencies are of that run's engine
on this machine, one inference each.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from ffn_edge.bundle import Bundle
from ffn_edge.demo.pipeline import engine_options
from ffn_edge.files.figure import save_figure
from ffn_edge.frames import segment_centres
from ffn_edge.media.video import VideoReader
from ffn_edge.media.video_list import read_list
from ffn_edge.runtime.run import RunOptions, open_session

_SHOWN = 8


@click.command()
@click.argument("demo", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--clip", default=19, show_default=True, help="Which line of the test list.")
@click.option("--output", default="docs/answer.png", show_default=True)
def main(demo: Path, clip: int, output: str) -> None:
    """Run one clip with every frame count, and draw it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bundle = Bundle.load(demo / "bundle")
    classes = bundle.manifest.classes
    video = read_list(demo / "clips/test.txt", classes=classes)[clip]
    with VideoReader(video.path) as reader:
        frames = reader.sample(
            lambda count: {0: segment_centres(count, _SHOWN)},
            lambda frame: np.ascontiguousarray(frame[..., ::-1]),
        )[0]
    lines = []
    for count in bundle.manifest.frame_counts:
        options = RunOptions(engines=engine_options())
        with open_session(bundle, video.path, frames=count, options=options) as session:
            result = list(session)[-1]
        best = result.top[0]
        gmac = bundle.manifest.sub_networks[count].macs / 1e9
        lines.append(
            f"{count:2d} frames, {gmac:.3f} GMAC:  {best.class_name} {best.probability:.2f}"
        )
        print(lines[-1], f"{result.latency_ms:.1f} ms")
    figure = pyplot.figure(figsize=(10, 2.5), layout="constrained")
    strip, text = figure.subplots(2, 1, height_ratios=(1.25, 1))
    strip.imshow(np.concatenate(list(frames), axis=1), interpolation="bicubic")
    strip.set_title(f"a rendered clip of the class “{classes[video.label]}”", loc="left")
    for axis in (strip, text):
        axis.axis("off")
    text.text(0, 1, "\n".join(lines), family="monospace", size=13, va="top", linespacing=1.5)
    save_figure(figure, output, dpi=110)


if __name__ == "__main__":
    main()
