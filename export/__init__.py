"""From a checkpoint to a bundle: fold, write graphs and the weight file, verify them."""
