"""Benchmarks against peers, paired in one run: `make bench`."""
