"""The parts of `benchmarks/on_gpu.sh`; each prints one table."""
