"""What test_bad_input.py is made of: what there is to call, what to call it with, and what may come of it."""
