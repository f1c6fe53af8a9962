"""Metadata: engines, schema, namespace, extents, stripes, sessions."""
