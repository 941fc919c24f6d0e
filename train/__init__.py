"""Training on a workstation. Called, the package trains: `ffn_edge.train("demo", "runs/demo")`."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ffn_edge.train.recipe import Recipe
    from ffn_edge.train.run_state import TrainResult


class _Train(ModuleType):
    # The package and the function have one name, and Python gives a package's to the package.
    def __call__(
        self,
        recipe: str | Path | Recipe,
        output: str | Path,
        *,
        resume: bool = False,
        device: str | None = None,
        workers: int = 0,
        **fields: Any,
    ) -> TrainResult:
        """Train a network; write `best.pt`, `last.pt` and `metrics.jsonl` to a folder.

            lists = {"train_list": "demo/clips/train.txt", "val_list": "demo/clips/val.txt"}
            ffn_edge.train(
                "demo", "runs/mine", classes="demo/clips/classes.txt", epochs=1, **lists
            )

        Args:
            recipe: the name of a shipped recipe, the path of a Python file that defines `recipe`
                (a program, and it runs: use your own), or a `Recipe`.
            output: the run's folder.
            resume: continue from `last.pt` in it.
            device: "cpu", "cuda", "cuda:1"; None for a GPU where there is one.
            workers: processes that decode videos; 0 decodes in this one.
            fields: of the recipe, to be other than it says.

        Raises:
            RecipeError, DataError, CheckpointError, NetworkError: as `ffn_edge.train.loop.train`.
        """
        from ffn_edge.train.loop import train
        from ffn_edge.train.recipe import load_recipe

        chosen = load_recipe(str(recipe)) if isinstance(recipe, str | Path) else recipe
        return train(
            chosen.replace(**fields), output, resume=resume, device=device, workers=workers
        )


__doc__ = f"{__doc__}\n\n{_Train.__call__.__doc__}"  # what help(ffn_edge.train) shows
sys.modules[__name__].__class__ = _Train
