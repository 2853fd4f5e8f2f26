"""Persistent state: files, run folders, checkpoints, status."""
