"""What makes the command's start shorter. For a process that only merges: the library itself changes nothing here.

Of 0.9 s from the interpreter to the first block, 0.4 s were three things that a merge has no use for.
"""

import gc
import os
import sys


def prepare() -> None:
    """Before numpy and numba are imported.

    Imports make hundreds of thousands of objects that stay, and Python goes through all of them again and again for
    rings that are none. numba imports scipy.linalg to look whether kernels may use BLAS; ours do not. numpy's BLAS
    starts a thread for each core, which waits for work by looking for it, in the time of the merge's own threads; what
    it is asked for here, sums over samples, takes milliseconds with one.
    """
    gc.disable()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.modules["scipy"] = None  # type: ignore[assignment]  # how the import system is told: there is none


def settle() -> None:
    """When everything is loaded: what is there now stays to the end, and is gone through no more.

    Nothing where `prepare` has not been called.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
