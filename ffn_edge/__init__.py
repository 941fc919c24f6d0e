"""ffn-edge: one training run, one weight file, one small graph per frame count.

Read in the order of the data: `network` (the Frame Flexible Network), `train`,
`export` (checkpoint to bundle), `runtime` (bundle to predictions). What every stage
agrees on stands beside this file: `frames`, `bundle`, `compose`, `errors`.
"""

__version__ = "0.1.0"
