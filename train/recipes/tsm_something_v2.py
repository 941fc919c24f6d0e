"""TSM-ResNet-50 on Something-Something V2, the paper's recipe.

The paper reports 56.07 / 61.86 / 63.61 % top-1 at 4 / 8 / 16 frames.
Neither accuracy nor duration was measured by this project. List files are
`path num_frames label` of frame folders.
No flip: direction is part of the label.

    ffn-edge train tsm_something_v2 --train-list train.txt --val-list val.txt \\
        --classes classes.txt --root DATA -o runs/tsm_something_v2

Source: Zhang et al., "Frame Flexible Network", CVPR 2023, and its published code.
"""

from ffn_edge.train.recipes.tsm_something_v1 import recipe as something_v1

recipe = something_v1.replace(dataset="something-v2")
