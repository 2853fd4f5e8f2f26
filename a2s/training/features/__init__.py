"""Features of the frozen encoder."""
