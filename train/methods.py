"""The paper's method and those it is compared with: what each trains, and what answers at a T.

ffn            one Frame Flexible Network
naive          one network, trained at the highest frame count alone
separate       a network for each frame count; the nearest answers
mixed          one network, on clips of mixed frame counts (see `ffn_edge.train.sampling`)
proportional   the same, step by step
finetune       the naive network, trained further at the lowest frame count
ensemble       all the separate networks at once; their logits are averaged
without-sn …   the Frame Flexible Network without a part of it: the ablations
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ffn_edge.errors import CheckpointError, RecipeError
from ffn_edge.frames import nearest_frame_count
from ffn_edge.network import ABLATIONS, FrameFlexibleNetwork
from ffn_edge.network.cost import count_macs
from ffn_edge.train.loop import BEST, LAST, train
from ffn_edge.train.recipe import Recipe
from ffn_edge.train.run_state import TrainResult


@dataclass(frozen=True, slots=True)
class MethodRun:
    """One network to train. `after` names the run whose best network it starts from."""

    name: str
    recipe: Recipe
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Method:
    """What a method trains, in this order.

    `answering` are the runs whose networks answer: the nearest by frame count, or with `ensemble`
    all of them.
    """

    name: str
    runs: tuple[MethodRun, ...]
    answering: tuple[str, ...]
    ensemble: bool = False


ALL_METHODS = (
    *("ffn", "naive", "separate", "mixed", "proportional", "finetune", "ensemble"),
    *(f"without-{part}" for part in ABLATIONS),
    "separate-each",
)


def method_of(name: str, recipe: Recipe, evaluated: Sequence[int] = ()) -> Method:
    """Return a method under a recipe; `evaluated` are the frame counts of "separate-each".

    Raises:
        RecipeError: it does not exist, it needs several frame counts, or the recipe is an ablation
            already.
    """
    if name not in ALL_METHODS:
        near = difflib.get_close_matches(name, ALL_METHODS, n=3) or ALL_METHODS
        raise RecipeError(f"there is no method {name!r}", f"did you mean {' or '.join(near)}?")
    if recipe.without and name != "ffn":
        raise RecipeError(
            f"{name} has no {' and no '.join(recipe.without)} that could be left out",
            "ablations are of FFN: leave out --method or --without.",
        )
    if name == "ffn":  # by itself it compares nothing: any frame counts will do
        return Method(name, (MethodRun(name, recipe),), (name,))
    if len(recipe.frame_counts) < 2:
        raise RecipeError(
            f"{name} is compared over several frame counts; the recipe has {recipe.frame_counts}",
            "give some with --frames, such as 4,8,16.",
        )
    if name.startswith("without-"):
        part = name.removeprefix("without-")
        return Method(name, (MethodRun(name, recipe.replace(without=(part,))),), (name,))
    if name == "separate-each" and not evaluated:
        raise RecipeError(
            "separate-each trains a network for each frame count that is evaluated",
            "it is a method of `ffn-edge compare`; for some, --method separate --frames 2,4,6.",
        )
    # What FFN is compared with are ordinary networks: with one norm, and without an alteration.
    ordinary = recipe.replace(without=("wa",))
    if name in ("mixed", "proportional"):
        return Method(name, (MethodRun(name, ordinary.replace(sampling=name)),), (name,))
    counts = {
        "naive": recipe.frame_counts[-1:],
        "finetune": recipe.frame_counts[-1:],
        "separate-each": tuple(evaluated),
    }.get(name, recipe.frame_counts)
    runs = tuple(MethodRun(f"single-{t}", ordinary.replace(frame_counts=(t,))) for t in counts)
    if name == "finetune":
        # Half as long at a tenth of the learning rate: what it had learnt is to stay.
        further = ordinary.replace(
            frame_counts=recipe.frame_counts[:1],
            weights=None,
            start_from=f"{runs[0].name}/{BEST}",
            epochs=max(1, recipe.epochs // 2),
            learning_rate=recipe.learning_rate / 10,
            step_epochs=tuple(epoch // 2 for epoch in recipe.step_epochs),
            warmup_epochs=recipe.warmup_epochs / 2,
        )
        return Method(name, (*runs, MethodRun(name, further, after=runs[0].name)), (name,))
    return Method(name, runs, tuple(run.name for run in runs), ensemble=name == "ensemble")


def train_method(
    method: Method,
    output: str | Path,
    *,
    resume: bool = False,
    device: str | None = None,
    workers: int = 0,
) -> dict[str, TrainResult]:
    """Train a method: in `output`, or where it has several runs in a folder of it for each.

    The other arguments are those of `ffn_edge.train.loop.train`.

    Returns:
        How each run ended, by name; up to the first that was interrupted.

    Raises:
        CheckpointError: there is nothing to resume.
        RecipeError: the folder holds a run, and `resume` is not set, or one of another kind.
    """
    folder = Path(output)
    several = len(method.runs) > 1
    owns = [folder / run.name if several else folder for run in method.runs]
    if resume and not any((own / LAST).is_file() for own in owns):
        raise CheckpointError(
            f"{folder} holds no run of {method.name} to resume", "leave out --resume to start one."
        )
    if several and (folder / LAST).is_file():
        raise RecipeError(f"{folder} holds a single run", "name another folder.")
    results = {}
    for run, own in zip(method.runs, owns, strict=True):
        results[run.name] = train_run(
            run, own, others=folder, resume=resume, device=device, workers=workers
        )
        if not results[run.name].finished:
            break
    return results


def train_run(
    run: MethodRun,
    folder: Path,
    *,
    others: Path,
    resume: bool,
    device: str | None = None,
    workers: int = 0,
) -> TrainResult:
    """Train one run in `folder`; in `others` lie those that it may start from.

    With `resume` it goes on where it was, or starts. A finished run is not trained again. The rest
    is as for `ffn_edge.train.loop.train`.
    """
    recipe = run.recipe
    if run.after is not None:
        recipe = recipe.replace(start_from=str(others / run.after / BEST))
    return train(
        recipe,
        folder,
        resume=resume and (folder / LAST).is_file(),
        device=device,
        workers=workers,
    )


class Answering(nn.Module):
    """The networks of a method behind one call, as `ffn_edge.train.evaluate` takes it."""

    def __init__(
        self, networks: Mapping[int, FrameFlexibleNetwork], *, ensemble: bool = False
    ) -> None:
        """Take networks by the frame count that each is for; together they are an ensemble."""
        super().__init__()
        self.frame_counts = tuple(sorted(networks))
        self.networks = nn.ModuleList(networks[t] for t in self.frame_counts)
        self.ensemble = ensemble

    def at(self, frames: int) -> list[nn.Module]:
        """Return the networks that answer for clips of T = `frames`."""
        if self.ensemble:
            return list(self.networks)
        nearest = nearest_frame_count(frames, self.frame_counts)
        return [self.networks[self.frame_counts.index(nearest)]]

    def forward(self, clip: Tensor) -> Tensor:
        """Classify (B, T, 3, H, W): logits (B, classes)."""
        return torch.stack([network(clip) for network in self.at(clip.shape[1])]).mean(0)

    def macs(self, frames: int, size: int) -> int:
        """Return the multiply-accumulates of one clip."""
        return sum(count_macs(network, frames, size) for network in self.at(frames))

    @property
    def num_parameters(self) -> int:
        """How many numbers were learnt, in all networks together."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def num_bytes(self) -> int:
        """What all networks take as files: parameters and statistics."""
        return sum(t.numel() * t.element_size() for t in self.state_dict().values())
