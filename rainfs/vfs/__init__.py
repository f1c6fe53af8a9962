"""POSIX semantics above metadata and array, without FUSE."""
