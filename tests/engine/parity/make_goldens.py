"""Makes the goldens again: ``python -m tests.engine.parity.make_goldens PYTHON``, from the root of the repository.

PYTHON is the interpreter of an environment that holds mergekit 0.1.5 (see README.md in this folder). mergekit runs
there, in a process of its own, offline, with one thread and fixed hashes; nothing of it is imported here.
"""

import argparse
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[3]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python", type=Path, help="interpreter of the environment that holds mergekit")
    interpreter = parser.parse_args().python
    settings = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [str(interpreter), "-m", "tests.engine.parity.run_mergekit"]
    subprocess.run(command, cwd=ROOT, env=os.environ | settings, check=True)
    stored = list((ROOT / "tests/engine/parity/goldens").glob("*.safetensors"))
    print(f"{len(stored)} goldens, {sum(path.stat().st_size for path in stored) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
