"""Progress of a job, computed from the files in its output folder. Pure."""
