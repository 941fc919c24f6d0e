"""What is copied to a device: one weight file, a small graph for each frame count. NumPy only."""
