"""Benchmarks: the answer is checked first, then the time is taken; python -m benchmarks."""
