"""Benchmarks: one file per question, each with the command that reruns it. See README.md."""
