"""The commands: parse, call, print. The only place that reads the environment; nothing heavy is imported for --help."""
