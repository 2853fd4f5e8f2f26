"""a2s: saliency pseudo labels from unlabelled images, and a detector that corrects them."""

__version__ = "0.1.0"
