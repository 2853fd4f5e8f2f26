"""Bytes at rest: files, run folders, checkpoints."""
