"""Other names of the modules of :mod:`nativemem.interop` for NumPy and cffi."""
