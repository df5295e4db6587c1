"""Doors to other code: NumPy, cffi, C through the port, the C API and memlib."""
