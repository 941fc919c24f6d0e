"""What is copied to a device: one weight file, a small graph for each frame count. NumPy only."""

from ffn_edge.bundle.bundle import Accuracy, Bundle, InputContract, Manifest, SubNetwork

__all__ = ["Accuracy", "Bundle", "InputContract", "Manifest", "SubNetwork"]
