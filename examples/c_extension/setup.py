from setuptools import Extension, setup

import nativemem

setup(ext_modules=[Extension("vector", ["vector.c"], include_dirs=[nativemem.get_include()])])
