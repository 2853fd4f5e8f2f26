"""Rules by which stage 2 corrects its labels."""
