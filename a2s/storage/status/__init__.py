"""How far a job is: numbers from what it left behind, and nothing else. Pure."""
