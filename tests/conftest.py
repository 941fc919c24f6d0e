"""What tests of several folders share: small networks that look trained, and a real bundle."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from unittest import mock

import numpy as np
import onnxruntime
import pytest
import torch

from benchmarks.example import quantized
from ffn_edge import network
from ffn_edge.bundle.bundle import Accuracy, Bundle
from ffn_edge.device.cpu_threads import VARIABLE
from ffn_edge.export.bundle_files import add_int8
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.checkpoint import ModelCard, load_checkpoint, save_checkpoint

CLASSES = ("left", "right", "up", "down", "none")

Randomise = Callable[[FrameFlexibleNetwork], FrameFlexibleNetwork]
GraphError = Callable[[FrameFlexibleNetwork, Bundle, int], float]

# The networks of the tests are small: on a busy machine, threads wait for each other far longer
# than they compute.
torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def caches_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tests, and the programs that they start, out of the user's caches."""
    with mock.patch.dict(os.environ, {"FFN_EDGE_CACHE": str(tmp_path_factory.mktemp("cache"))}):
        yield


@pytest.fixture(autouse=True)
def keep_number_of_threads() -> Iterator[None]:
    """Undo `--threads` of commands that run in this process."""
    before = os.environ.get(VARIABLE)
    yield
    os.environ.pop(VARIABLE, None)
    if before is not None:
        os.environ[VARIABLE] = before


@pytest.fixture(scope="session")
def randomise() -> Randomise:
    """A function that makes a network look trained: no norm, φ or statistic is the identity.

    It returns the network in evaluation mode. Values follow from each tensor's place, not from
    the state of any random generator.
    """
    return _randomise


def _randomise(model: FrameFlexibleNetwork) -> FrameFlexibleNetwork:
    generator = torch.Generator().manual_seed(0)

    def uniform(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.empty(tensor.shape).uniform_(low, high, generator=generator))

    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if ".phi." in name:
                uniform(tensor, -0.4, 0.4)
            elif ".norms." in name and name.endswith(("weight", "running_var")):
                uniform(tensor, 0.5, 1.5)
            elif ".norms." in name and name.endswith(("bias", "running_mean")):
                uniform(tensor, -0.5, 0.5)
            elif name.endswith(("fc.linear.weight", "fc.linear.bias")):
                uniform(tensor, -1, 1)  # the initial 0.001 would leave every logit near zero
    return model.eval()


@pytest.fixture(scope="session")
def graph_error() -> GraphError:
    """A function that says how far a bundle's graph in ONNX Runtime is from its network.

    It takes the network, the bundle and a frame count, and returns the largest difference of
    logits, relative to the largest logit.
    """
    return _graph_error


def _graph_error(model: FrameFlexibleNetwork, bundle: Bundle, frames: int) -> float:
    contract = bundle.manifest.input
    shape = (1, frames, contract.height, contract.width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    session = onnxruntime.InferenceSession(
        str(bundle.graph_path(frames)), providers=["CPUExecutionProvider"]
    )
    (logits,) = session.run(["logits"], {"frames": pixels})
    mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in (contract.mean, contract.std))
    clip = (torch.from_numpy(pixels).permute(0, 1, 4, 2, 3) / 255 - mean) / std
    with torch.inference_mode():
        expected = model(clip)
    return float((torch.from_numpy(logits) - expected).abs().max() / expected.abs().max())


@pytest.fixture(scope="session")
def tiny(randomise: Randomise) -> FrameFlexibleNetwork:
    """A tsm_tiny for 2 and 4 frames, randomised. Not to be changed."""
    torch.manual_seed(0)
    return randomise(network.build("tsm_tiny", len(CLASSES), (2, 4)))


@pytest.fixture(scope="session")
def checkpoint_file(tiny: FrameFlexibleNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of `tiny`, for frames of 32 pixels."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    card = ModelCard(
        classes=CLASSES, size=32, short_side=40, accuracy={2: Accuracy(top1=0.5, top5=1.0, clips=8)}
    )
    save_checkpoint(path, tiny, card)
    return path


@pytest.fixture(scope="session")
def exported(checkpoint_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle of `checkpoint_file`. Not to be changed; see `bundle_copy`."""
    checkpoint = load_checkpoint(checkpoint_file)
    folder = tmp_path_factory.mktemp("exported") / "bundle"
    folder.mkdir()  # an empty folder may be there
    return export_bundle(checkpoint.network, checkpoint.card, folder)


@pytest.fixture(scope="session")
def causal_checkpoint(randomise: Randomise, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a causal tsm_tiny for 2 and 4 frames of 32 pixels, randomised."""
    torch.manual_seed(0)
    model = randomise(network.build("tsm_tiny", len(CLASSES), (2, 4), causal=True))
    path = tmp_path_factory.mktemp("causal") / "causal.pt"
    save_checkpoint(path, model, ModelCard(classes=CLASSES, size=32, short_side=32))
    return path


@pytest.fixture(scope="session")
def exported_causal(causal_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle of `causal_checkpoint`. Not to be changed."""
    checkpoint = load_checkpoint(causal_checkpoint)
    folder = tmp_path_factory.mktemp("exported_causal") / "bundle"
    return export_bundle(checkpoint.network, checkpoint.card, folder)


@pytest.fixture(scope="session")
def causal_int8(exported_causal: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same bundle with INT8 graphs. Not to be changed."""
    return quantized(exported_causal, tmp_path_factory.mktemp("causal_int8") / "bundle")


@pytest.fixture(scope="session")
def exported_int8(exported: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same bundle with INT8 graphs, that lost nothing on 200 clips. Not to be changed."""
    bundle = quantized(exported, tmp_path_factory.mktemp("int8") / "bundle")
    accuracy = Accuracy(top1=0.9, top5=1.0, clips=200)
    measured = {"compared_on": 200, "accuracy": accuracy, "accuracy_float32": accuracy}
    found = bundle.manifest.quantized
    return add_int8(bundle, {t: dataclasses.replace(each, **measured) for t, each in found.items()})


@pytest.fixture
def bundle_copy(exported: Bundle, tmp_path: Path) -> Path:
    """A folder with a copy of the bundle, to be damaged."""
    return Path(shutil.copytree(exported.path, tmp_path / "bundle"))


FullDisk = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def on_a_full_disk() -> FullDisk:
    """A function that runs a Python program in which a file cannot grow beyond `room` bytes.

    Writing more fails with an OSError, as on a full disk, and in C++ as well as in Python.
    """

    def run(program: str, *arguments: object, room: int) -> subprocess.CompletedProcess[str]:
        limit = (
            "import resource, signal\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))\n"
        )
        return subprocess.run(
            [sys.executable, "-c", limit + program, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture
def in_session() -> Callable[[int], list[int]]:
    """Return what lists the processes of a session that have not ended."""

    def found(session: int) -> list[int]:
        numbers = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                state, _, _, own = stat.read_text().rsplit(")", 1)[1].split()[:4]
                if int(own) == session and state != "Z":
                    numbers.append(int(stat.parent.name))
        return numbers

    return found
