"""Where the two wings meet: the command line, the same through Python (`api`), reports and the demo."""
