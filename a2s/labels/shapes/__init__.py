"""Masks as other programs write them: run lengths, brush strokes, polygons. Pure."""
