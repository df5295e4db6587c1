"""The pure backend: blocks, the data plane and one core a file, from the standard library alone."""
