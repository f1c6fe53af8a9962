"""Peers: other file systems on the same work, each started, mounted and cleared away by itself.

`python -m bench.peers` takes them in turn in one run. Nothing is installed; what is missing is
skipped and said so.
"""
