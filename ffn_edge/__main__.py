"""`python -m ffn_edge`, which is also what `torchrun -m ffn_edge` starts."""

from ffn_edge.cli import main

main()
