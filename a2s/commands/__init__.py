"""One file per subcommand of `a2s`."""
