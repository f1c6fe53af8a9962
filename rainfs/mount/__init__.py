"""The pyfuse3 adapter: the only place that knows errno and FUSE."""
