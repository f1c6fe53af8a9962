"""Trio streams with deadlines: the network boundary."""
