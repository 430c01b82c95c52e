"""A checkpoint kept as its lossless difference to another one: packed, and read by merges as if it were whole.

    codec.py     one block of numbers to bytes that compress well, and back
    form.py      the file ``weights.lbd``: frames, and a head that says what they are
    reading.py   tensors whose elements come from parent and frames; `Checkpoint.open` finds them by itself
    writing.py   pack, with the proof that every original byte comes back; and unpack

Why the difference in units in the last place: of bfloat16 weights that training has moved a little, parent and child
have mostly the same exponent and nearby mantissas, and those differences have far less entropy than the weights.
"""
