import shutil

from setuptools import Extension, setup

import nativemem

include = nativemem.get_include()
flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", f"-isystem{include}"]
modules = [Extension("crossing", ["crossing.c"], include_dirs=[include], extra_compile_args=flags)]
if shutil.which("g++") or shutil.which("c++"):
    modules.append(Extension("crossing_cxx", ["crossing_cxx.cpp"], include_dirs=[include], language="c++"))
setup(name="crossing", ext_modules=modules)
