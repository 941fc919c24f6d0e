"""The Frame Flexible Network: one shared body that serves several frame counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from ffn_edge.errors import NetworkError
from ffn_edge.frames import check_frame_counts, nearest_frame_count
from ffn_edge.network.layers import Route, Segment, TemporalShift
from ffn_edge.network.report import Specialization, specialization_of

Layout = Literal["frames", "clip"]
# Of a stream: what its next frame needs of those before, for each temporal shift.
State = tuple[Tensor, ...]


class FrameFlexibleNetwork(nn.Module):
    """Shared weights, with a norm and an alteration of its own for each frame count.

    Args:
        body: the network, already specialised. With layout "frames" it takes (rows, 3, H, W) and
            gives logits per frame, which are averaged over T; with "clip" it takes
            (B, 3, T, H, W) and gives logits per clip.
        route: the route that the body's specialised layers share.
        frame_counts: the trained frame counts, ascending.
        architecture: the name under which `build` makes the same network again.
        num_classes: the number of logits.
        layout: what the body takes.
        without: which of `ABLATIONS` are left out of the network.
        output: where the logits are in what the body gives in training, if that is more.
        causal: nothing in the body looks into the future, so that it can go frame by frame.
    """

    def __init__(
        self,
        body: nn.Module,
        route: Route,
        frame_counts: Sequence[int],
        *,
        architecture: str,
        num_classes: int,
        layout: Layout = "frames",
        without: Sequence[str] = (),
        output: int | str | None = None,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.body = body
        self.route = route
        self.frame_counts = check_frame_counts(frame_counts)
        self.architecture = architecture
        self.num_classes = num_classes
        self.layout: Layout = layout
        self.without = tuple(without)
        self.output = output
        self.causal = causal

    @overload
    def forward(self, clip: Tensor, frames: int | None = None) -> Tensor: ...

    @overload
    def forward(self, clip: Mapping[int, Tensor], *, together: bool = ...) -> dict[int, Tensor]: ...

    def forward(
        self,
        clip: Tensor | Mapping[int, Tensor],
        frames: int | None = None,
        together: bool = False,
    ) -> Tensor | dict[int, Tensor]:
        """Classify clips of one frame count, or of several in one pass.

        Args:
            clip: float32 (B, T, 3, H, W), normalised; or such clips by frame count.
            frames: the sub-network; left out, the nearest to T, ties to the larger.
            together: with several frame counts, pass all rows through each shared layer in one
                call and split them only at specialised layers. Equal to one pass per frame count
                but for rounding; which is faster depends on the device. Layout "frames" only.

        Returns:
            Logits, (B, classes); by frame count if `clip` was.

        Raises:
            NetworkError: a clip of another shape, or a sub-network that does not exist.
        """
        if isinstance(clip, Tensor):
            return self._one(clip, frames)
        if together and self.layout == "frames":
            return self._together(clip)
        return {t: self._one(part, t) for t, part in clip.items()}

    def step(self, frames: Tensor, state: State | None, sub_network: int) -> tuple[Tensor, State]:
        """Classify the next frames of streams, with the work of these frames alone.

        From the start of a stream, the mean of the logits of T frames is what `forward` gives for
        them as a clip.

            state = None
            for frame in frames:  # float32 (B, 1, 3, H, W), normalised
                logits, state = network.step(frame, state, sub_network=8)

        Args:
            frames: float32 (B, k, 3, H, W), normalised: the next k frames, at least one, of B
                streams.
            state: what the step before gave; None at the start.
            sub_network: a trained frame count.

        Returns:
            Logits of each frame, (B, k, classes), and the state after them: (B, C', H', W') for
            each temporal shift.

        Raises:
            NetworkError: the network is not causal, the frames have another shape, or the
                sub-network does not exist.
        """
        if not self.causal:
            raise NetworkError(
                "a network that looks into the future cannot go frame by frame",
                "train a causal one: `ffn-edge train … --causal`, or build(…, causal=True).",
            )
        segment = self._segment(frames, sub_network)
        shifts = [each for each in self.body.modules() if isinstance(each, TemporalShift)]
        route = self.route
        route.segments = (Segment(frames.shape[0], segment.sub_network, 1),)
        route.memory = {} if state is None else dict(zip(shifts, state, strict=True))
        try:
            logits = [self._logits(frame) for frame in frames.unbind(1)]
            return torch.stack(logits, 1), tuple(route.memory[each] for each in shifts)
        finally:
            route.memory = None

    @property
    def specialized(self) -> Specialization:
        """What was specialised in the body, what was left alone, and what folds at export.

        Raises:
            NetworkError: the body cannot be traced.
        """
        return specialization_of(self.body)

    def serving(self, sub_network: int) -> FrameFlexibleNetwork:
        """Return the network that serves a frame count: one for all, unless they share nothing."""
        return self

    def _one(self, clip: Tensor, frames: int | None) -> Tensor:
        segment = self._segment(clip, frames)
        if self.layout == "clip":
            self.route.segments = (Segment(clip.shape[0], segment.sub_network, segment.frames),)
            return self._logits(clip.transpose(1, 2))  # (B, 3, T, H, W)
        self.route.segments = (segment,)
        per_frame = self._logits(clip.flatten(0, 1))  # (B*T, classes)
        return mean_over_frames(per_frame, segment.frames)

    def _together(self, clips: Mapping[int, Tensor]) -> dict[int, Tensor]:
        segments = tuple(self._segment(clip, t) for t, clip in clips.items())
        self.route.segments = segments
        rows = torch.cat([clip.flatten(0, 1) for clip in clips.values()])
        parts = torch.split(self._logits(rows), [segment.rows for segment in segments])
        return {
            t: mean_over_frames(part, segment.frames)
            for t, part, segment in zip(clips, parts, segments, strict=True)
        }

    def _logits(self, x: Tensor) -> Tensor:
        given: Any = self.body(x)
        return given if isinstance(given, Tensor) else given[self.output]

    def _segment(self, clip: Tensor, frames: int | None) -> Segment:
        if clip.dim() != 5 or clip.shape[2] != 3:
            raise NetworkError(
                f"a clip has the shape (B, T, 3, H, W); got {tuple(clip.shape)}",
                "stack RGB frames along dimension 1.",
            )
        batch, own = clip.shape[:2]
        if frames is None:
            frames = nearest_frame_count(own, self.frame_counts)
        elif frames not in self.frame_counts:
            served = ", ".join(map(str, self.frame_counts))
            raise NetworkError(
                f"the network has sub-networks for {served} frames; {frames} was asked for",
                f"name one of {served}, or leave `frames` out for the nearest.",
            )
        return Segment(batch * own, frames, own)


def mean_over_frames(per_frame: Tensor, frames: int) -> Tensor:
    """Average logits per frame (B*T, classes) over T = `frames`: (B, classes)."""
    return torch.unflatten(per_frame, 0, (-1, frames)).mean(1)
