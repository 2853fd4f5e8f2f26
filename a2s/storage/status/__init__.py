"""Progress of a job, computed from its output files. Pure."""
