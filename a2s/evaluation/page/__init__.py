"""The page that `a2s report` writes about runs."""
