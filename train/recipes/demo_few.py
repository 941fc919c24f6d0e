"""The demo's network on a third of its clips, for longer: what `compare` is shown with.

With all 1800 clips most methods come to 95 %, and little is left to tell them apart; and 16 frames
alone take long until they learn anything.

    ffn-edge compare demo_few --methods all --seeds 0,1,2 -o compared
"""

from ffn_edge.train.recipes.demo import recipe as demo

recipe = demo.replace(epochs=80, validate_every=8)
