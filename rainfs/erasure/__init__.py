"""Erasure codes: reedsolo's systematic Reed-Solomon code, mirrors, and the compiled kernel."""
