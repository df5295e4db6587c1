"""The version. Packaging and ``nativemem.__version__`` both read it from here."""

__version__ = "0.2.0"
