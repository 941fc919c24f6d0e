"""TSM-ResNet-18 for your own clips, from torchvision's ImageNet weights.

A start, to be changed with --set or in a copy of this file; not run on real clips by this project.
List files are `path label` of video files. No flips: they may change what a clip shows.

    ffn-edge train custom --train-list train.txt --val-list val.txt \\
        --classes classes.txt --root DATA -o runs/mine

The weights are downloaded once; `--set weights=None` starts from random ones.
"""

from ffn_edge.train.recipe import Recipe

recipe = Recipe(
    architecture="tsm_resnet18",
    dataset="custom",
    weights="IMAGENET1K_V1",
    batch_size=8,
    epochs=30,
)
