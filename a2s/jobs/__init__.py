"""The commands: one file each, same name; `run(config) -> exit code`."""
