"""The machine: its GPU, its processors, what the kernel tells, the cache of engines.

A parameter `root` is where a machine's file system begins: "/", or a copy of another machine's.
"""
