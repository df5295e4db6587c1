"""The native backend: the shared object, and the cores in it."""
