"""Pictures: grids, overlays, contact sheets."""
