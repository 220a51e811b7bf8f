"""One module a command: `run(args)` returns the exit code. A module is imported only when its command is chosen."""
