"""The node daemon: wire events become store calls."""
