"""Merge methods. ``table`` says what each takes, and loads without numpy; ``registry`` has the functions.

A new method is one function ``Tensor -> Operation`` in a file of its family, one line in the registry, and its
parameters in the table; a test holds the two together, and the algebra tests pick it up.
"""
