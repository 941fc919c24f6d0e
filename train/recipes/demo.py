"""The demo's network: tsm_tiny on rendered clips of 64×64 pixels, on a CPU.

Cross-entropy on every frame count is added to the paper's objective: in so short a schedule the
students otherwise wait for a teacher that knows nothing yet.

    ffn-edge train demo --train-list clips/train.txt --val-list clips/val.txt \\
        --classes clips/classes.txt -o runs/demo
"""

from ffn_edge.train.recipe import Recipe

recipe = Recipe(
    architecture="tsm_tiny",
    dataset="demo",
    dropout=0.0,
    size=64,
    short_side=64,
    crop_scales=(1.0, 0.875),
    cache_gib=1.5,  # all of the demo's 1800 training clips
    label_smoothing=0.05,
    supervise_all=True,
    optimizer="adamw",
    learning_rate=3e-3,
    weight_decay=0.05,
    epochs=15,
    batch_size=32,
    schedule="one_cycle",
    validate_every=2,
)
