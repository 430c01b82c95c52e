"""The inner loops, compiled by numba: one pass over a block that lies in the cache, without the interpreter's lock.

They know numbers only: no files, no names of tensors, no parameters by name. Each is compiled at its first call and
kept on disk by numba, so the second merge of an installation starts at once. Nothing here reorders floating point
sums or contracts a product and a sum into one rounding, so the bytes of a merge are the same on every processor.

Why numba: a block passes through torch or numpy once per operation and through these once. `tests/bench/engine.py`
measures it, BENCHMARKS.md says what else was tried.
"""
