"""The load generator: the process that sends, the one that reads answers, and the checks of its own timing."""
