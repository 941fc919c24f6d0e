"""One process or many: the device of this one, and what it agrees on with the others.

`torchrun` starts one process per GPU and says so in environment variables; without them this is
the only one. Only the first process (rank 0) writes files and prints.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ffn_edge.errors import RecipeError
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.threads import Measured, thread_counts

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among `world_size`, and the device it computes on.

    `measured()` makes the context for each piece of some kind of work; see `thread_counts`.
    """

    rank: int
    world_size: int
    device: torch.device
    measured: Callable[[], Measured] = lambda: nullcontext

    @property
    def first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def any(self, *flags: bool) -> list[bool]:
        """Return of each flag whether any process raised it, by one exchange."""
        if self.world_size == 1:
            return [*flags]
        raised = torch.tensor(flags, dtype=torch.int32, device=self.device)
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return [bool(flag) for flag in raised.tolist()]

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the first one's values, in place."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def gather(self, mine: T) -> list[T]:
        """Return what every process has of something, in the order of their ranks."""
        if self.world_size == 1:
            return [mine]
        gathered = [mine] * self.world_size
        dist.all_gather_object(gathered, mine)
        return gathered

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            dist.barrier()


# Where no `join_processes` is asked which there are: this one, with what is on the CPU.
ALONE = Processes(0, 1, torch.device("cpu"))


@contextmanager
def join_processes(device: str | None) -> Iterator[Processes]:
    """Yield this process's place; join a process group if `torchrun` started several.

    Args:
        device: "cpu", "cuda" or "cuda:1"; None for a GPU where there is one.

    Raises:
        RecipeError: a GPU was asked for and there is none.
    """
    try:
        wanted = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise RecipeError(f"there is no device {device!r}", "cpu, cuda or cuda:1.") from error
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise RecipeError("there is no CUDA device on this machine", "leave --device out, or cpu.")
    world_size = _world_size()
    if world_size == 1:
        if wanted.type != "cpu":
            yield Processes(0, 1, wanted)
            return
        with thread_counts() as measured:
            yield Processes(0, 1, wanted, measured)
        return
    if wanted.type == "cuda":
        wanted = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(wanted)
    dist.init_process_group("nccl" if wanted.type == "cuda" else "gloo")
    if dist.get_rank() > 0:
        logging.getLogger("ffn_edge").setLevel(logging.ERROR)  # the first one tells it all
    try:
        yield Processes(dist.get_rank(), world_size, wanted)
    finally:
        dist.destroy_process_group()


def require_one_process(command: str) -> None:
    """Raise a RecipeError if `torchrun` started several: each would do, and write, the same."""
    if (started := _world_size()) > 1:
        raise RecipeError(
            f"`ffn-edge {command}` works in one process; {started} were started",
            "start it without torchrun; train, evaluate and deviation share their work.",
        )


def is_first_process() -> bool:
    """Whether this is the only process, or the first that `torchrun` started: the one to print."""
    return _world_size() == 1 or os.environ["RANK"] == "0"


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def to_channels_last(network: FrameFlexibleNetwork) -> None:
    """Lay the weights out in memory as clips are, whatever the network takes: channels last."""
    clip = network.layout == "clip"
    network.to(memory_format=torch.channels_last_3d if clip else torch.channels_last)


def compute_dtype(precision: str, device: torch.device, network: nn.Module) -> torch.dtype:
    """Return the type that a network's convolutions compute in; see `Recipe.precision`."""
    named = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision in named:
        return named[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
    if any(isinstance(layer, nn.Conv3d) for layer in network.modules()):
        # In bfloat16 on a CPU, UniFormer's depth-wise Conv3d layers got weight gradients of 1e35
        # from memory that was never written (torch 2.14.1; seen with MALLOC_PERTURB_=128).
        return torch.float32
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def autocast_to(
    dtype: torch.dtype, device: torch.device
) -> Callable[[], AbstractContextManager[object]]:
    """Return the context in which a forward pass computes in `dtype`."""
    if dtype is torch.float32:
        return nullcontext
    return lambda: torch.autocast(device.type, dtype)
