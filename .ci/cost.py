"""Runs a command and writes what it took: seconds, seconds of processor time, and MiB of its largest process.

usage: python .ci/cost.py FILE COMMAND...
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path


def main() -> int:
    began = time.monotonic()
    code = subprocess.call(sys.argv[2:])
    used = resource.getrusage(resource.RUSAGE_CHILDREN)  # of children's children, too
    numbers = time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
    Path(sys.argv[1]).write_text(" ".join(f"{n:.0f}" for n in numbers) + "\n")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
