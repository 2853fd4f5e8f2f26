"""Label correction during stage 2."""
