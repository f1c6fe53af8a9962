"""The node daemon: wire events in, store calls out."""
