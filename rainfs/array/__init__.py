"""The client side of nodes: backends, placement, stripes, health, cache."""
