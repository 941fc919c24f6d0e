"""What tests of networks share: the values of a published checkpoint's tensors."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def published_tensor() -> Callable[[str, Sequence[int]], Tensor]:
    """A function that makes a tensor of a published checkpoint from its name and shape.

    The cases of tests/data/parity were computed with these values.
    """
    return _published_tensor


def _published_tensor(name: str, shape: Sequence[int]) -> Tensor:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return torch.full(tuple(shape), 7)
    if name.endswith("running_var"):
        values = rng.uniform(0.5, 1.5, shape)
    elif name.endswith("running_mean"):
        values = rng.standard_normal(shape) * 0.2
    elif "adaconv" in name:
        values = rng.standard_normal(shape) * 0.3
    elif name.endswith("bias"):
        values = rng.standard_normal(shape) * 0.1
    elif len(shape) == 1:  # a norm's weight
        values = rng.uniform(0.4, 0.8, shape)
    else:
        values = rng.standard_normal(shape) * np.sqrt(1.6 / np.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32))
