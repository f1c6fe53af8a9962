"""Crash simulations: a disk that records everything, and what a power cut would leave of it."""
