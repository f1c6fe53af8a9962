"""A store behind threads: what the node daemon and the file:// backend share."""
