"""Build it with ``python setup.py build_ext --inplace``."""

from setuptools import Extension, setup

setup(
    name="records",
    version="1.0",
    ext_modules=[Extension("records", ["records.c"], extra_compile_args=["-g", "-O1"])],
)
