"""Saliency without training: what a trained network has to beat."""
