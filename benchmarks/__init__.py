"""Benchmarks: paired ratios in one run (see README.md beside this file)."""
