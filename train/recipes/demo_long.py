"""The demo's network, trained until more frames score higher: what `compare` is shown with.

The same clips, network and optimiser as in `demo`, for longer.

    ffn-edge compare demo_long --methods all --seeds 0,1,2 -o compared
"""

from ffn_edge.train.recipes.demo import recipe as demo

recipe = demo.replace(epochs=28, validate_every=4)
