"""Background work on the volume: garbage, repair."""
