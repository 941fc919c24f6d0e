"""UniFormer-S on Something-Something V1, the paper's recipe.

The paper reports 51.41 / 56.64 / 58.88 % top-1 at 4 / 8 / 16 frames, averaged over
three crops. Neither accuracy nor duration was measured by this project. List files
are `path num_frames label` of frame folders.
No flip: direction is part of the label.

It starts from Kinetics-600: uniformer_small_k600_16x4.pth, which the authors of
UniFormer publish (github.com/Sense-X/UniFormer, video_classification).

    ffn-edge train uniformer_something_v1 --train-list train.txt --val-list val.txt \\
        --classes classes.txt --root DATA --weights FILE -o runs/uniformer_something_v1

Not as published: four crop scales stand for crops of 8 to 100 % of a frame, and each
video is shown once a batch, without RandAugment, random erasing, mixup and cutmix. One
crop is tested, of the centres of equal segments, which are up to two frames from the
published ones, and φ is not decayed.

Source: Zhang et al., "Frame Flexible Network", CVPR 2023, and its published code.
"""

from ffn_edge.train.recipe import Recipe

recipe = Recipe(
    architecture="uniformer_small",
    dataset="something-v1",
    frame_counts=(4, 8, 16),
    short_side=224,
    dropout=0.0,  # the network drops whole residual branches instead, at rates up to 0.2
    label_smoothing=0.1,
    optimizer="adamw",
    learning_rate=2e-4,
    weight_decay=0.05,
    epochs=60,
    batch_size=32,
    clip_gradient=20.0,
    schedule="cosine",
    warmup_epochs=5.0,
    final_learning_rate=1e-6,
)
