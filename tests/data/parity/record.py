"""Record what the paper's published code gives, as the cases beside this file.

    python -m tests.data.parity.record FFN-pytorch tsm_resnet18

FFN-pytorch is a clone of https://github.com/BeSpontaneous/FFN-pytorch. A case is written under the
name of an architecture, or as `tsm_resnet18_train`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cases import FOLDER, FRAME_COUNTS, input_clip, names_crc32, published_tensor
from .published import build

# (frames, pixels) of the inputs where they are not 64 pixels for each frame count.
INPUTS = {
    "tsm_resnet50": ((4, 64), (8, 64), (16, 64), (4, 224)),
    "tea_resnet50": ((4, 224),),  # its last pooling takes no less
    "slowfast_resnet50": ((16, 64),),
}
NAMES_ONLY = ("tsm_resnet50", "tsm_resnet101")  # their shapes are those of our networks

SHIFT = (
    "each sequence shifted within itself (published training code shifts every sequence as if 16 "
    "frames long, which leaks across videos; the authors call that unintended)"
)
GRADIENTS = re.compile(
    r"base_model\.((layer1\.0|layer4\.1)\.)?(conv1|bn1_\d+|adaconv_\d+)\..*|new_fc\..*"
)
STATISTICS = re.compile(r"base_model\.layer1\.0\.bn1_\d+\.running_.*")


def run(model: nn.Module, arch: str, clip: Tensor) -> Tensor:
    """Return what the subnetwork for a clip (B, T, 3, H, W) gives, by its published layout."""
    frames = clip.shape[1]
    given: Any = clip.transpose(1, 2)  # (B, 3, T, H, W)
    if arch == "slowfast_resnet50":
        given = [given[:, :, torch.linspace(0, frames - 1, frames // 4).long()], given]
    elif arch != "uniformer_small":
        given = clip.flatten(1, 2)  # (B, T·3, H, W)
        for module in model.modules():  # into how many frames they split the batch
            for name in {"num_segments_H", "n_segment", "n_segment_H"} & vars(module).keys():
                setattr(module, name, frames)
    inputs = [None] * 3
    inputs[FRAME_COUNTS[arch].index(frames)] = given
    results: Tensor = model(*inputs, False)
    return results


def evaluation(model: nn.Module, arch: str) -> dict[str, Any]:
    """Record the results of each input."""
    model.eval()
    flat = arch.startswith("t")  # TSM's and TEA's inputs are frame-major
    cases = []
    for frames, size in INPUTS.get(arch, [(frames, 64) for frames in FRAME_COUNTS[arch]]):
        seed = 1000 + frames + size
        layout = "1,T*3,H,W (frame-major)" if flat else "1,3,T,H,W"
        case: dict[str, Any] = {"frames": frames, "size": size, "input_seed": seed}
        case |= {"input_layout": layout, "subnetwork": frames}
        with torch.inference_mode():
            (results,) = run(model, arch, input_clip(seed, 1, frames, size, frame_major=flat))
        case["softmax" if arch == "slowfast_resnet50" else "logits"] = [*map(rounded, results)]
        cases.append(case)
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    if arch in NAMES_ONLY:
        return {"names_crc32": names_crc32(shapes), "cases": cases}
    return {"cases": cases, "keys": shapes}


def training(model: nn.Module, arch: str) -> dict[str, Any]:
    """Record the losses, gradients and statistics of a training step, without dropout."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    targets = [5, 101]
    seeds = {frames: 2000 + frames for frames in FRAME_COUNTS[arch]}
    logits = {
        t: run(model, arch, input_clip(seed, len(targets), t, 64)) for t, seed in seeds.items()
    }
    *fewer, most = logits
    teacher = logits[most].detach().softmax(1)
    cross_entropy = F.cross_entropy(logits[most], torch.tensor(targets))
    kl = {t: F.kl_div(logits[t].log_softmax(1), teacher, reduction="batchmean") for t in fewer}
    total = cross_entropy + sum(kl.values())
    torch.autograd.backward([total])
    return {
        "batch": len(targets),
        "size": 64,
        "targets": targets,
        "input_seeds": seeds,
        "input_layout": "B,T*3,H,W (frame-major)",
        "dropout": 0,
        "temporal_shift": SHIFT,
        "cross_entropy": cross_entropy.item(),
        "kl": {t: loss.item() for t, loss in kl.items()},
        "total": total.item(),
        "grad_norms": {
            name: rounded(parameter.grad.norm(), 6)
            for name, parameter in model.named_parameters()
            if parameter.grad is not None and GRADIENTS.fullmatch(name)
        },
        "running_stat_sums_after": {
            name: [rounded(buffer.sum())]
            for name, buffer in model.named_buffers()
            if STATISTICS.fullmatch(name)
        },
    }


def rounded(value: Tensor, digits: int = 7) -> float:
    """Round to significant digits."""
    return float(f"{value.item():.{digits}g}")


def main(clone: str, name: str) -> None:
    """Record the case of this name."""
    arch = name.removesuffix("_train")
    model = build(Path(clone), arch)
    state = model.state_dict()
    model.load_state_dict({key: published_tensor(key, state[key].shape) for key in state})
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=clone, text=True)
    source = f"BeSpontaneous/FFN-pytorch {commit.strip()}, torch {torch.__version__}, CPU, float32"
    case = {
        "model": arch.replace("resnet", "r").replace("small", "s"),
        "source": source,
        **(evaluation(model, arch) if name == arch else training(model, arch)),
    }
    (FOLDER / f"{name}.json").write_text(json.dumps(case) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
