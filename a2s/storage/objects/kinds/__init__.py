"""Kinds of stores whose objects are reached by file systems of fsspec."""
