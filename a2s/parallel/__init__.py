"""More than one process, GPU or machine."""
