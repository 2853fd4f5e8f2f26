"""Parallel execution: thread and Ray pools, training ranks, GPUs."""
