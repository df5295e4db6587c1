from setuptools import Extension, setup

import nativemem

include = nativemem.get_include()
flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", f"-isystem{include}"]
setup(
    name="crossing",
    ext_modules=[
        Extension("crossing", ["crossing.c"], include_dirs=[include], extra_compile_args=flags),
        Extension("crossing_cxx", ["crossing_cxx.cpp"], include_dirs=[include], language="c++"),
    ],
)
