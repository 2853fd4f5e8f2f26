"""The Python API: what `from a2s import …` gives (docs/api.md)."""
