"""The paper's tables and figures as lists of jobs, and their numbers beside the paper's."""
