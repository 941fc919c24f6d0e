"""The measured latency, power and memory of each frame count."""
