"""The two training loops."""
