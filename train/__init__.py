"""From videos to a checkpoint: data, objective, loop, evaluation. PyTorch, on a workstation."""
