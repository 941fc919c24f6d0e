"""SlowFast-ResNet-50 on Something-Something V1, the paper's recipe.

The paper reports 43.90 / 47.11 / 47.27 % top-1 at 16 / 32 / 64 frames, tested at
256x256 pixels. Neither accuracy nor duration was measured by this project. List
files are `path num_frames label` of frame folders.
No flip: direction is part of the label.

It starts from Kinetics-400: a PyTorch checkpoint of PySlowFast's SLOWFAST_8x8_R50
(SLOWFAST_8x8_R50_stepwise.pkl in its model zoo).

    ffn-edge train slowfast_something_v1 --train-list train.txt --val-list val.txt \\
        --classes classes.txt --root DATA --weights FILE -o runs/slowfast_something_v1

Not as published: it is tested at 224x224 pixels and on the centres of equal segments,
which are up to two frames from the published ones; the classifier learns faster than
the rest, and four crop scales stand for a short side of 256 to 320 pixels.

Source: Zhang et al., "Frame Flexible Network", CVPR 2023, and its published code.
"""

from ffn_edge.train.recipe import Recipe

recipe = Recipe(
    architecture="slowfast_resnet50",
    dataset="something-v1",
    frame_counts=(16, 32, 64),
    crop_scales=(0.875, 0.8, 0.75, 0.7),
    dropout=0.5,
    optimizer="sgd",
    nesterov=True,
    learning_rate=0.03,
    weight_decay=1e-6,
    epochs=22,
    batch_size=16,
    schedule="step",
    step_epochs=(14, 18),
    warmup_epochs=0.19,
    precision="fp32",
)
