"""TSM-ResNet-50 on HMDB51, the paper's recipe.

The paper reports 45.67 / 47.67 / 48.80 % top-1 at 4 / 8 / 16 frames.
Neither accuracy nor duration was measured by this project. List files are
`path label` of video files.
Horizontal flips.

    ffn-edge train tsm_hmdb51 --train-list train.txt --val-list val.txt \\
        --classes classes.txt --root DATA -o runs/tsm_hmdb51

Source: Zhang et al., "Frame Flexible Network", CVPR 2023, and its published code.
"""

from ffn_edge.train.recipes.tsm_something_v1 import recipe as something_v1

recipe = something_v1.replace(dataset="hmdb51")
