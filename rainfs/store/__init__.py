"""A node's storage file: format (FORMAT.md), allocation, index, checksums."""
