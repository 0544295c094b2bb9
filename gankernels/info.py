"""What this copy of gankernels consists of and runs on, made to be pasted: `python -m gankernels.info [--json]`.

No path, user name or host name appears in it, and nothing is started: no GPU is opened, no optional package imported.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np

import gankernels
from gankernels import backends

__all__ = ["OPTIONAL", "collect", "main", "text"]

# distribution -> (import name, what it is for, the command that brings it)
OPTIONAL = {
    "h5py": ("h5py", "shower files", "pip install 'gankernels[calo]'"),
    "matplotlib": ("matplotlib", "pictures and reports", "pip install 'gankernels[calo]'"),
    "tqdm": ("tqdm", "progress bars", "pip install 'gankernels[calo]'"),
    "safetensors": ("safetensors", "checkpoints", "pip install 'gankernels[calo]'"),
    "tensorboard": ("tensorboard", "TensorBoard logs", "pip install tensorboard"),
    "torch": ("torch", "parity tests", "install the CPU build of torch"),
}
ENVIRONMENT = ("GANKERNELS_ISA", "GANKERNELS_NUM_THREADS", "GANKERNELS_CUDA")


def collect() -> dict[str, Any]:
    """Everything that the report says, as plain JSON types.

    Returns
    -------
    dict
        "versions", "build", "devices" (None or why not, for each device), "isa", "threads", "conv_algorithm",
        "optional" (version, or None with the command that installs it) and "environment".
    """
    from gankernels.backends import cpu

    return {
        "versions": {
            "gankernels": gankernels.__version__,
            "python": platform.python_version(),
            "implementation": platform.python_implementation(),
            "numpy": np.__version__,
            "system": f"{platform.system()} {platform.machine()}",
        },
        "build": _build(),
        "devices": {
            device: {"usable": backends.why_not(device) is None, "why_not": backends.why_not(device)}
            for device in ("cpu", "cuda")
        },
        "isa": {"compiled": list(cpu.isa_compiled()), "present": list(cpu.isa_present()), "chosen": cpu.isa()},
        "threads": {"used": cpu.num_threads(), "cores": _cores()},
        "conv_algorithm": gankernels.conv_algorithm(),
        "optional": {name: _optional(name) for name in OPTIONAL},
        "environment": {name: os.environ.get(name) for name in ENVIRONMENT},
    }


def _build() -> dict[str, Any]:
    try:
        built = importlib.import_module("gankernels._build_info")
    except ModuleNotFoundError:
        return {"record": "missing: this copy was not installed by pip"}
    return {
        "compiler": built.compiler,
        "build_type": built.build_type,
        "cuda_requested": built.cuda_requested,
        "cuda_built": built.cuda_built,
        "cuda_reason": built.cuda_reason,
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _optional(name: str) -> dict[str, Any]:
    module, purpose, command = OPTIONAL[name]
    if importlib.util.find_spec(module) is None:
        return {"version": None, "purpose": purpose, "install": command}
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    return {"version": version, "purpose": purpose, "install": command}


def text(report: dict[str, Any]) -> str:
    """The report as lines for a person."""
    versions, build, isa, threads = (report[key] for key in ("versions", "build", "isa", "threads"))
    lines = [
        f"gankernels {versions['gankernels']}   {versions['implementation']} {versions['python']}   "
        f"numpy {versions['numpy']}   {versions['system']}",
        "",
        "compiled parts",
        f"  cpu   yes ({build['compiler']}, {build['build_type']})"
        if "compiler" in build
        else f"  cpu   yes ({build['record']})",
        "  cuda  yes" if report["devices"]["cuda"]["usable"] else f"  cuda  no: {report['devices']['cuda']['why_not']}",
        "",
        "processor",
        f"  instruction sets compiled  {', '.join(isa['compiled'])}",
        f"  present on this machine    {', '.join(isa['present'])}",
        f"  chosen                     {isa['chosen']}  ({_said(report, 'GANKERNELS_ISA')})",
        f"  threads                    {threads['used']} of {threads['cores']} cores  "
        f"({_said(report, 'GANKERNELS_NUM_THREADS')})",
        f"  convolution algorithm      {report['conv_algorithm']}",
        "",
        "optional packages",
    ]
    for name, found in report["optional"].items():
        state = found["version"] or f"absent; {found['install']}"
        lines.append(f"  {name:<12} {found['purpose']:<21} {state}")
    return "\n".join(lines)


def _said(report: dict[str, Any], variable: str) -> str:
    value = report["environment"][variable]
    return f"{variable} is not set" if value is None else f"{variable}={value}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; returns the exit code 0."""
    parser = argparse.ArgumentParser(
        prog="python -m gankernels.info", description="What this copy of gankernels consists of and runs on."
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    arguments = parser.parse_args(argv)
    report = collect()
    print(json.dumps(report, indent=2) if arguments.json else text(report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
