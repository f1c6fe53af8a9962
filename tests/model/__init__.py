"""A file system beside the local one: the same operations on both, and what each says of them."""
