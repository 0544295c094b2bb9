"""Reads what ptxas -v said of every kernel and fails on spills, local memory and too many registers.

usage: python .ci/ptxas_gate.py BUILD_LOG
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

MAX_REGISTERS = 168  # of a thread: a block of 256 still fits, with room for a second one of 128
# Large arguments of sin and cos are reduced with a table in local memory; nothing else may use any.
LOCAL_MEMORY_ALLOWED = re.compile(r"UnaryOp\)1[12]\b|AnyUnary")


def demangled(names: list[str]) -> list[str]:
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def short(name: str) -> str:
    for part in ("void ", "gk::cuda::", "gk::", "(anonymous namespace)::"):
        name = name.replace(part, "")
    return re.sub(r">\(.*", ">", name)


def main() -> int:
    text = Path(sys.argv[1]).read_text()
    pattern = re.compile(
        r"Compiling entry function '(\w+)' for '(sm_\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?",
        re.S,
    )
    rows = pattern.findall(text)
    names = demangled([row[0] for row in rows])
    worst: dict[str, tuple[int, int, str]] = {}
    problems = []
    for (_, arch, stack, stores, loads, registers, shared), name in zip(rows, names, strict=True):
        kernel = short(name)
        where = f"{arch} {kernel}"
        if "double" in kernel:  # for gradient checks: only the registers count
            pass
        elif int(stores) or int(loads):
            problems.append(f"{where}: {stores} bytes of spill stores, {loads} of spill loads")
        elif int(stack) and not LOCAL_MEMORY_ALLOWED.search(name):
            problems.append(f"{where}: {stack} bytes of local memory")
        if int(registers) > MAX_REGISTERS:
            problems.append(f"{where}: {registers} registers, more than {MAX_REGISTERS}")
        family = re.sub(r"<.*", "", kernel)
        worst[family] = max(worst.get(family, (0, 0, "")), (int(registers), int(shared or 0), arch))
    print(f"ptxas: {len(rows)} kernels of {len({row[1] for row in rows})} architectures")
    for family, (registers, shared, arch) in sorted(worst.items()):
        print(f"  {family:<28} {registers:>3} registers, {shared:>6} bytes of static shared memory ({arch})")
    for problem in problems:
        print(f"ptxas gate: {problem}")
    return 1 if problems or not rows else 0


if __name__ == "__main__":
    raise SystemExit(main())
