"""Speed and memory of this suite against its peers, measured in one run: ``python -m benchmarks``."""
