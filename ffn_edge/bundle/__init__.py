"""What is copied to a device: one weight file, a small graph for each frame count. NumPy only."""

from ffn_edge.bundle.bundle import Bundle as Bundle
from ffn_edge.bundle.bundle import Manifest as Manifest
