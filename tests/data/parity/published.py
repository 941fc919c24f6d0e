"""Build the networks of the paper's published code from a clone of its repository.

Only the files of a network are imported: of the package around SlowFast and UniFormer, the parts
that do not touch the results are mocks, so that neither it nor what it needs must be installed.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

from torch import nn

CLASSES = 174

# The published settings that touch the results.
SLOWFAST = {  # 3D_Network/configs/sth/SLOWFAST_16x8_R50_FFN.yaml, slowfast/config/defaults.py
    "CONTRASTIVE.NUM_MLP_LAYERS": 1,
    "CONTRASTIVE.PREDICTOR_DEPTHS": [],
    "DATA.INPUT_CHANNEL_NUM": [3, 3],
    "DETECTION.ENABLE": False,
    "MODEL.ARCH": "slowfast_FFN",
    "MODEL.DETACH_FINAL_FC": False,
    "MODEL.DROPOUT_RATE": 0.5,
    "MODEL.HEAD_ACT": "softmax",
    "MODEL.NUM_CLASSES": CLASSES,
    "NONLOCAL.GROUP": [[1, 1]] * 4,
    "NONLOCAL.LOCATION": [[[], []]] * 4,
    "RESNET.DEPTH": 50,
    "RESNET.NUM_BLOCK_TEMP_KERNEL": [[3, 3], [4, 4], [6, 6], [3, 3]],
    "RESNET.NUM_GROUPS": 1,
    "RESNET.SPATIAL_DILATIONS": [[1, 1]] * 4,
    "RESNET.SPATIAL_STRIDES": [[1, 1], [2, 2], [2, 2], [2, 2]],
    "RESNET.TRANS_FUNC": "bottleneck_transform_FFN",
    "RESNET.WIDTH_PER_GROUP": 64,
    "SLOWFAST.ALPHA": 4,
    "SLOWFAST.BETA_INV": 8,
    "SLOWFAST.FUSION_CONV_CHANNEL_RATIO": 2,
    "SLOWFAST.FUSION_KERNEL_SZ": 7,
}
UNIFORMER = {  # Transformer_Network/exp/uniformer_s16_sthv1_prek600_FFN/config.yaml and defaults.py
    "DATA.INPUT_CHANNEL_NUM": [3],
    "DATA.TRAIN_CROP_SIZE": 224,
    "MODEL.NUM_CLASSES": CLASSES,
    "MODEL.USE_CHECKPOINT": False,
    "UNIFORMER.ATTENTION_DROPOUT_RATE": 0,
    "UNIFORMER.DEPTH": [3, 4, 8, 3],
    "UNIFORMER.DROPOUT_RATE": 0,
    "UNIFORMER.DROP_DEPTH_RATE": 0,  # 0.1 in training
    "UNIFORMER.EMBED_DIM": [64, 128, 320, 512],
    "UNIFORMER.HEAD_DIM": 64,
    "UNIFORMER.MLP_RATIO": 4,
    "UNIFORMER.QKV_BIAS": True,
    "UNIFORMER.QKV_SCALE": None,
    "UNIFORMER.REPRESENTATION_SIZE": None,
    "UNIFORMER.SPLIT": False,
    "UNIFORMER.STD": False,
}

# What the files of SlowFast and UniFormer import beside each other.
_MOCKS = (
    "slowfast.models.attention",
    "slowfast.models.batchnorm_helper",
    "slowfast.models.build",
    "slowfast.models.common",
    "slowfast.models.nonlocal_helper",
    "slowfast.models.operators",
    "slowfast.models.reversible_mvit",
    "slowfast.models.utils",
    "slowfast.utils",
    "slowfast.utils.logging",
    "slowfast.utils.weight_init_helper",
    "timm",
    "timm.models",
    "timm.models.layers",
    "timm.models.vision_transformer",
)


def build(clone: Path, arch: str) -> nn.Module:
    """Build the published network that is `arch` here."""
    match arch.split("_"):
        case ["slowfast", _]:
            path = ("video_model_builder_FFN", "SlowFast_FFN")
            return _three_dimensional(clone / "3D_Network", path, SLOWFAST)
        case ["uniformer", _]:
            path = ("uniformer_FFN", "Uniformer_FFN")
            return _three_dimensional(clone / "Transformer_Network", path, UNIFORMER)
        case [kind, depth]:
            return _two_dimensional(clone / "2D_Network", f"resnet_{kind.upper()}_FFN", depth)
    raise ValueError(arch)


def _two_dimensional(folder: Path, arch_file: str, base_model: str) -> nn.Module:
    sys.path.insert(0, str(folder))
    kind: Any = importlib.import_module("ops.models_FFN").TSN
    options = {"print_spec": False, "pretrain": "", "partial_bn": False}
    model: nn.Module = kind(arch_file, CLASSES, 16, 8, 4, "RGB", base_model, **options)
    return model


def _three_dimensional(folder: Path, path: tuple[str, str], settings: dict[str, Any]) -> nn.Module:
    mocks = {name: MagicMock() for name in _MOCKS}
    mocks["slowfast.models.build"].MODEL_REGISTRY.register.return_value = lambda cls: cls
    mocks["slowfast.models.batchnorm_helper"].get_norm.return_value = nn.BatchNorm3d
    mocks["timm.models.layers"].to_2tuple = lambda size: (size, size)
    sys.modules.update(mocks)
    for package in ("slowfast", "slowfast.models"):  # without what their __init__.py imports
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(folder.joinpath(*package.split(".")))]
    kind: Any = getattr(importlib.import_module(f"slowfast.models.{path[0]}"), path[1])
    model: nn.Module = kind(MagicMock(**settings))
    return model
