"""TEA-ResNet-50 on Something-Something V1, the paper's recipe.

The paper reports 44.97 / 51.61 / 54.04 % top-1 at 4 / 8 / 16 frames.
Neither accuracy nor duration was measured by this project. List files are
`path num_frames label` of frame folders.
No flip: direction is part of the label.

It starts from ImageNet: res2net50_26w_4s-06e79181.pth, which the authors of Res2Net
publish (github.com/Res2Net/Res2Net-PretrainedModels).

    ffn-edge train tea_something_v1 --train-list train.txt --val-list val.txt \\
        --classes classes.txt --root DATA --weights FILE -o runs/tea_something_v1

Source: Zhang et al., "Frame Flexible Network", CVPR 2023, and its published code.
"""

from ffn_edge.train.recipe import Recipe

recipe = Recipe(
    architecture="tea_resnet50",
    dataset="something-v1",
    frame_counts=(4, 8, 16),
    dropout=0.5,
    optimizer="sgd",
    learning_rate=0.02,
    epochs=50,
    batch_size=32,
    schedule="step",
    step_epochs=(30, 40, 45),
)
