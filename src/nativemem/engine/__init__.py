"""The engine under the interpreter and NumPy: installing it, and what the process uses."""
