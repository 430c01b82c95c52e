"""One vLLM instance started the plain way: python vllm_plain.py <launcher's pid> <model folder> <vLLM's arguments>.

What `python -m vllm.entrypoints.openai.api_server` does, with three things before it: this process and each that
multiprocessing spawns from it die with their parent, their shared memory carries the launcher's name
(EMPELT_SEGMENTS), and the weight files are mapped (see `procfs.map_weights`).
multiprocessing runs the main script again in every process that it spawns, as __mp_main__, before it unpickles what the
process is to do. That is how EngineCore and Worker, which vLLM spawns, come to be bound as well.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_HERE = str(Path(__file__).resolve().parent)
sys.path.insert(0, _HERE)
import procfs  # noqa: E402
import shared_segments  # noqa: E402

# Twice where Python put the script's folder there itself: vLLM must not find our modules under its imports.
sys.path[:] = [entry for entry in sys.path if entry != _HERE]


def main() -> int:
    """Serve until told to stop; returns the exit code."""
    procfs.die_with_parent()
    if procfs.orphaned_from(int(sys.argv[1])):
        return 1
    # Kept for the life of the process: a local of the frame that vLLM's server runs in.
    witness = procfs.map_weights(Path(sys.argv[2]))
    sys.stderr.write(f"empelt: mapped {len(witness)} weight files of {sys.argv[2]}, starting vLLM plainly\n")
    sys.path.insert(0, _HERE)
    import vllm_fork

    sys.path.remove(_HERE)
    from vllm.entrypoints.launchers.api_server.entry import main as vllm_main

    return vllm_fork.serve(vllm_main, sys.argv[3:])


# An instance is a session of its own: its first process has given the group its number. A pod has no launcher.
if __name__ in ("__main__", "__mp_main__"):
    shared_segments.name_segments(f"{os.environ.get('EMPELT_SEGMENTS', 'empelt-')}{os.getpgid(0)}-")

if __name__ == "__main__":
    sys.exit(main())
elif __name__ == "__mp_main__" and os.getpid() != os.getpgid(0):
    procfs.die_with_parent_in_this_group()
