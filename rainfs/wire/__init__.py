"""The protocol between array and node, without any I/O."""
