"""The ablation without weight sharing: a whole network for each frame count."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ffn_edge.network.ffn import FrameFlexibleNetwork
from ffn_edge.network.report import Specialization


class UnsharedNetwork(FrameFlexibleNetwork):
    """Looks like a Frame Flexible Network and shares nothing; the paper's "without WS".

    It is trained like one, by distillation from the highest frame count. It cannot be exported
    as one bundle: there is no weight that two frame counts have in common.

    Args:
        networks: a network of one frame count each, by frame count, ascending.
        without: what is left out of each of them, "ws" among it.
    """

    def __init__(
        self, networks: Mapping[int, FrameFlexibleNetwork], without: tuple[str, ...]
    ) -> None:
        some = next(iter(networks.values()))
        super().__init__(
            nn.ModuleDict({str(frames): network for frames, network in networks.items()}),
            some.route,
            tuple(networks),
            architecture=some.architecture,
            num_classes=some.num_classes,
            layout=some.layout,
            without=without,
        )

    def forward(  # type: ignore[override]
        self,
        clip: Tensor | Mapping[int, Tensor],
        frames: int | None = None,
        together: bool = False,
    ) -> Tensor | dict[int, Tensor]:
        """Classify clips, each by its own network; see `FrameFlexibleNetwork.forward`."""
        if not isinstance(clip, Tensor):
            return {t: self.serving(t)(part, t) for t, part in clip.items()}
        sub_network = self._segment(clip, frames).sub_network
        return self.serving(sub_network)(clip, sub_network)

    @property
    def specialized(self) -> Specialization:
        """What was specialised in each of the networks."""
        return self.serving(self.frame_counts[0]).specialized

    def serving(self, sub_network: int) -> FrameFlexibleNetwork:
        """Return the network of a frame count."""
        return self.body.get_submodule(str(sub_network))  # type: ignore[return-value]
