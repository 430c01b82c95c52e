"""``python -m tasks.tether PARENT-PID MODULE ARGUMENTS...``: ``python -m MODULE``, which ends when its parent does.

On Linux the kernel kills this process when the thread that started it ends, however that came to be: a flow run that
was killed leaves no merge or evaluation behind. Elsewhere the record of it is what the next watch goes by.
"""

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that this process gets when its parent's thread ends."""


def tie_to(parent: int) -> bool:
    """Ask the kernel to kill this process with its parent; False if the parent is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent  # it may have ended before the kernel was told


def main(arguments: list[str]) -> None:
    """Become ``arguments[1]``, run as ``__main__`` with the rest as its arguments."""
    parent, module, *rest = arguments
    if not tie_to(int(parent)):
        sys.exit(f"process {parent}, which started {module}, is gone")
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
