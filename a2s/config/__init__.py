"""Every setting, its default and its help text."""
