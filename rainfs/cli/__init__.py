"""The command line: parse, build the object graph, run."""
