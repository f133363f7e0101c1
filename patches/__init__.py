"""Everything that reaches into a serving or training engine's internals, a folder for each engine."""
