"""From a checkpoint to a bundle: folding, graphs, the weight file, verification."""
