"""Sweeps of allocation failures over the public surface; see docs/testing.md."""
