"""A recipe: everything that decides what a training run learns. A Python file holds one."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import os
import pkgutil
import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from ffn_edge.errors import FfnEdgeError, RecipeError
from ffn_edge.files import schema
from ffn_edge.files.schema import Above0, Between, Count, NotNegative, Positive, Share
from ffn_edge.frames import check_frame_counts
from ffn_edge.network.ablations import ABLATIONS
from ffn_edge.train.augment import MULTI_SCALE

WARM_SHARE = 0.5
FITTED = "recipe.py"  # in a run's folder, the recipe that was fitted


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train one network. Frozen, and checked when it is made.

    Data: paths may be left out here and given on the command line. Without `classes`, names come
    from the training list, and without `val_list` a fifth of it is for validation; see
    `ffn_edge.train.lists`. `dataset` names the facts of a data set (is a flip allowed, …); `mirror`
    says for your own which classes become each other when left and right are swapped: () is none,
    and None never swaps. Paths in a recipe file start from its folder, on the command
    line from the current one. `short_side` left out is 8/7 of `size`, the papers' 256 for 224.
    `crop_scales` are the sizes of the random crop as shares of the short side. `window_s` are the
    seconds that a clip spans: in a longer video, a window at random; None is whole videos. It goes
    with the network, up to `run`. `cache_gib` of decoded frames are kept on disk for all epochs and
    runs, in `cache_folder` (see `ffn_edge.train.frame_cache`). `batch_size` counts videos over all
    processes together; `epochs` are passes over the list.

    Small data: `balanced` draws each class equally often in an epoch, which stays as long.
    `rand_augment` is the magnitude, up to 30, of torchvision's RandAugment of two operations, the
    same for all of a video's clips; 0 is none. `mixup` and `cutmix` are the α of the Beta
    distribution of the share that a clip and its label keep when another of the batch is mixed in;
    with both set a batch has one or the other. `freeze` is how many of the network's first stages,
    of which the stem is one, keep their shared weights; their norms and alterations, which make
    the frame counts' differences, learn. `patience` ends a run when so many validations in a row
    have not raised the mean top-1.

    Objective: see `ffn_edge.train.objective.MultiFrequencyLoss`.

    `causal` makes a network that takes from the past alone and can go frame by frame; in
    `warm_share` of the steps it learns each clip with the state that the one before left, as in a
    stream, and not from an empty one. It learns fastest from a network that looks both ways:
    `start_from`.
    `without` names what is left out of the method, as in the paper's ablations: "sn", "wa", "td",
    "ws" (see `ffn_edge.network.ABLATIONS`). `start_from` is a checkpoint whose tensors training
    starts with, whatever its frame counts and class names. `sampling` is for the methods that FFN
    is compared with (see `ffn_edge.train.sampling`): other than "all" trains one ordinary network,
    at the highest frame count, on clips of mixed frame counts; `low_share` of them have the lowest.

    Optimiser: "sgd" has the paper's parameter groups; "adamw" decays matrices only. The learning
    rate rises linearly for `warmup_epochs` and then follows `schedule`: "step" multiplies by
    `step_factor` at each of `step_epochs`, "cosine" falls to `final_learning_rate`, "one_cycle"
    rises for 30 % of the run from a 25th and falls to zero. With `ema_decay`, what is validated and
    kept is a moving average of the weights (see `ffn_edge.train.optimizer.MovingAverage`).

    Speed: `precision` "auto" is bfloat16 where the device computes it natively, else float16 on
    a GPU and float32 on a CPU; on a CPU always float32 for 3-D convolutions. `together` sends all
    frame counts through each shared layer in one call, which may suit tiny networks; None is
    False. Only every `log_every` steps, and at an epoch's end, the program waits for the device, to
    write down the losses of each step since; what has diverged is found out there.
    """

    architecture: str
    dataset: str
    frame_counts: tuple[int, ...] = (4, 8, 16)
    weights: str | None = None
    start_from: str | None = None
    dropout: Share = 0.5
    without: tuple[str, ...] = ()
    causal: bool = False
    warm_share: Share = WARM_SHARE

    train_list: str | None = None
    val_list: str | None = None
    classes: str | None = None
    root: str | None = None
    size: Annotated[int, Between(1, 4096)] = 224
    short_side: Positive | None = None
    crop_scales: tuple[Annotated[float, Between(1e-3, 1)], ...] = MULTI_SCALE
    cache_gib: Annotated[float, Between(0, 1e6)] = 0.0
    cache_folder: str | None = None
    max_broken_share: Share = 0.05
    window_s: Above0 | None = None
    mirror: tuple[tuple[str, str], ...] | None = None

    balanced: bool = False
    rand_augment: Annotated[int, Between(0, 30)] = 0
    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0
    freeze: Count = 0
    patience: Positive | None = None

    distillation_weight: NotNegative = 1.0
    label_smoothing: Share = 0.0
    supervise_all: bool = False
    sampling: Literal["all", "mixed", "proportional"] = "all"
    low_share: Share = 0.5

    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Above0 = 0.01
    momentum: Share = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 5e-4
    epochs: Positive = 50
    batch_size: Positive = 32
    accumulate: Positive = 1
    clip_gradient: Above0 | None = None
    schedule: Literal["step", "cosine", "one_cycle"] = "step"
    step_epochs: tuple[Count, ...] = ()
    step_factor: Above0 = 0.1
    warmup_epochs: NotNegative = 0.0
    final_learning_rate: NotNegative = 0.0
    ema_decay: Share | None = None

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool = True
    together: bool | None = None
    sync_norm: bool = False
    seed: Count = 0
    validate_every: Positive = 1
    log_every: Positive = 10
    checkpoint_minutes: NotNegative = 10.0

    def __post_init__(self) -> None:
        try:
            given = {name: getattr(self, name) for name in _FIELDS if name not in PATHS}
            found = schema.parse_fields(Recipe, given)
            # A path may be of bytes that are no text.
            paths = {name: value for name in PATHS if (value := getattr(self, name))}
            found |= {name: os.path.expanduser(path) for name, path in paths.items()}
            for name, value in found.items():
                object.__setattr__(self, name, value)
        except (ValueError, TypeError) as error:
            hint = "set it in the recipe, or by --set NAME=VALUE."
            raise RecipeError(str(error), hint) from error
        check_frame_counts(self.frame_counts)
        if unknown := sorted(set(self.without) - set(ABLATIONS)):
            raise RecipeError(
                f"there is no method without {unknown[0]!r}",
                f"what can be left out is {', '.join(ABLATIONS)}.",
            )
        if self.sampling != "all" and len(self.frame_counts) < 2:
            raise RecipeError(
                f"{self.sampling} sampling trains one network on two frame counts or more",
                "name the frame counts.",
            )
        if self.freeze and self.weights is None and self.start_from is None:
            raise RecipeError(
                "freeze would keep the random weights that the network starts with",
                "name weights or start_from.",
            )
        if self.batch_size % self.accumulate:
            raise RecipeError(
                f"batch_size {self.batch_size} is not a multiple of accumulate {self.accumulate}",
                "batch_size is what one optimiser step sees, in `accumulate` parts.",
            )
        if not self.crop_scales:
            raise RecipeError("crop_scales has no scale", "(1.0,) crops at full size.")
        if self.schedule == "one_cycle" and self.warmup_epochs:
            raise RecipeError(
                "one_cycle has a rise of its own; warmup_epochs would cut into it",
                "leave warmup_epochs out.",
            )
        if self.scaled_to < self.size:
            raise RecipeError(
                f"short_side {self.short_side} is below size {self.size}",
                "frames are scaled to short_side, then size is cut out of them.",
            )
        if self.scaled_to > 2 * self.size:
            raise RecipeError(
                f"size {self.size} is a small hole in frames of short_side {self.short_side}",
                "frames are scaled to short_side, then size is cut out of them: set short_side "
                f"too, such as {round(self.size * 8 / 7)}.",
            )

    @property
    def scaled_to(self) -> int:
        """The short side of frames before the crop, in pixels."""
        return round(self.size * 8 / 7) if self.short_side is None else self.short_side

    def data_path(self, name: str) -> Path:
        """Return one of the paths without which nothing is trained.

        Raises:
            RecipeError: the recipe does not say it.
        """
        value = getattr(self, name)
        if value is None:
            raise RecipeError(
                f"the recipe does not say where its {name} is",
                f"give --{name.replace('_', '-')} PATH.",
            )
        return Path(value)

    def replace(self, **changes: Any) -> Recipe:
        """Return a copy with some fields changed; it is checked again."""
        return dataclasses.replace(self, **changes)

    def with_settings(self, settings: dict[str, str]) -> Recipe:
        """Return a copy with fields set from text, as in `--set learning_rate=0.02`.

        Raises:
            RecipeError: no such field, or a value of another kind.
        """
        changes: dict[str, Any] = {}
        for name, text in settings.items():
            if name not in _FIELDS:
                raise RecipeError(
                    f"a recipe has no field {name!r}", f"its fields are {', '.join(_FIELDS)}."
                )
            try:
                value: Any = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                value = text  # a word, such as cosine
            if isinstance(getattr(self, name), tuple) and not isinstance(value, tuple | None):
                value = (value,)
            changes[name] = value
        return self.replace(**changes)


DATA = ("train_list", "val_list", "classes")
PATHS = (*DATA, "root", "start_from", "weights", "cache_folder")

_FIELDS = tuple(field.name for field in dataclasses.fields(Recipe))


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that come with the package."""
    package = importlib.import_module("ffn_edge.train.recipes")
    return [info.name for info in pkgutil.iter_modules(package.__path__)]


def load_recipe(name: str) -> Recipe:
    """Return a shipped recipe by name, or the `recipe` of a Python file.

    A recipe file is a program: it runs. Use your own, or read it first. Its paths start from its
    folder.

    Raises:
        RecipeError: no such recipe, or the file defines none.
    """
    if not name.endswith(".py"):
        shipped = shipped_recipes()
        if name not in shipped:
            raise RecipeError(
                f"there is no recipe {name!r}",
                f"give a Python file, or one of {', '.join(shipped)}.",
            )
        recipe = importlib.import_module(f"ffn_edge.train.recipes.{name}").recipe
    else:
        if not Path(name).is_file():
            raise RecipeError(f"there is no recipe file {name}", "check the path.")
        try:
            recipe = runpy.run_path(name).get("recipe")
            if isinstance(recipe, Recipe):
                recipe = _from_folder(recipe, Path(name).parent)
        except FfnEdgeError:
            raise
        except Exception as error:
            raise RecipeError(
                f"{name} cannot be run: {type(error).__name__}: {error}",
                "it begins with `from ffn_edge.train.recipe import Recipe`.",
            ) from error
    if not isinstance(recipe, Recipe):
        raise RecipeError(
            f"{name} does not define a recipe",
            "write `from ffn_edge.train.recipe import Recipe` and `recipe = Recipe(...)`.",
        )
    return recipe


def _from_folder(recipe: Recipe, folder: Path) -> Recipe:
    """Return a recipe whose relative paths start from a folder."""
    paths = {name: str(folder / value) for name in PATHS if (value := getattr(recipe, name))}
    if not Path(paths.get("weights", "")).is_file():
        paths.pop("weights", None)  # a name, such as IMAGENET1K_V1
    return recipe.replace(**paths)
