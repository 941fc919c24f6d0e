"""The machine: its GPU, its processors, what the kernel tells, the cache of engines."""
