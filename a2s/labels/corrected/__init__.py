"""Masks that people corrected in other programs, as decisions about labels."""
