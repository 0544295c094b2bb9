"""Reads the machine code of the built module and fails if a hot kernel lacks the instructions that it is written for.

usage: python .ci/sass_gate.py MODULE.so     (cuobjdump and nvdisasm on the PATH)
"""

from __future__ import annotations

import re
import subprocess
import sys

# pattern of mangled kernel names (the first that matches) -> instructions, each of which some of them must contain
# on every architecture
WANTED = {
    "map_kernel": ("LDG.E.128", "STG.E.128"),  # 16-byte packs
    "draw_kernel": ("STG.E.128",),
    "gemm_kernel.*MmaTile.*bfloat16": ("HMMA.16816.F32.BF16", "LDG.E.U16"),  # tensor cores, pairs through registers
    "gemm_kernel": ("HMMA", "LDGSTS"),  # tensor cores, asynchronous copies
    "conv_direct_kernel": ("FFMA", "LDGSTS"),
}


def main() -> int:
    found: dict[tuple[str, str], set[str]] = {}
    arch, kernel = "", ""
    with subprocess.Popen(["cuobjdump", "-sass", sys.argv[1]], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.lstrip().startswith("code for sm_"):
                arch = line.split()[-1]
            elif "Function :" in line:
                name = line.split()[-1]
                kernel = next((k for k in WANTED if re.search(k, name)), "")
            elif kernel:
                code = re.search(r"\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]*)", line)
                if code:
                    found.setdefault((kernel, arch), set()).add(code.group(1))
    if process.returncode or not found:
        print(f"machine code: cuobjdump found nothing in {sys.argv[1]}")
        return 1
    missing = []
    for kernel, wanted in WANTED.items():
        archs = sorted(a for k, a in found if k == kernel)
        if not archs:
            missing.append(f"there is no kernel {kernel!r}")
        for arch in archs:
            for instruction in wanted:
                if not any(code.startswith(instruction) for code in found[kernel, arch]):
                    missing.append(f"{kernel} on {arch} has no {instruction}")
        if archs:
            print(f"machine code: {kernel} has {', '.join(wanted)} on {', '.join(archs)}")
    for line in missing:
        print(f"machine code: {line}")
    return 1 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
