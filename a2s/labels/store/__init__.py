"""Label store: the soft labels that stage 2 reads and writes."""
