"""A node's storage file: format, allocation, index, checksums."""
