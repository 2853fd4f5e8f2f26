"""Pseudo labels: made, refined, scored, stored and corrected."""
