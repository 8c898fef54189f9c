"""Benchmarks of lm-evaluation-harness (extra `bench`) on any causal model, in this process."""
