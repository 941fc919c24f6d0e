"""What is copied to a device: one weight file, a small graph for each frame count. NumPy only."""

from ffn_edge.bundle.bundle import Accuracy, Bundle, InputContract, Manifest, SubNetwork
from ffn_edge.bundle.weight_file import WeightFile

__all__ = ["Accuracy", "Bundle", "InputContract", "Manifest", "SubNetwork", "WeightFile"]
