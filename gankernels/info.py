"""What this copy of gankernels consists of and runs on, made to be pasted: `python -m gankernels.info [--json]`.

No path, user name or host name appears in it, and nothing is started: the driver is asked about GPUs, but none is put
to work, and no optional package is imported.
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
from gankernels.backends import driver, registry

__all__ = ["OPTIONAL", "collect", "main", "text"]

# distribution -> (import name, what it is for, the command that brings it)
OPTIONAL = {
    "h5py": ("h5py", "shower files", "pip install 'gankernels[calo]'"),
    "matplotlib": ("matplotlib", "pictures and reports", "pip install 'gankernels[calo]'"),
    "tqdm": ("tqdm", "progress bars", "pip install 'gankernels[calo]'"),
    "safetensors": ("safetensors", "checkpoints", "pip install 'gankernels[calo]'"),
    "tensorboard": ("tensorboard", "TensorBoard logs", "pip install tensorboard"),
    "torch": ("torch", "parity tests", "install the CPU build of torch"),
    "ml_dtypes": ("ml_dtypes", "bfloat16 in NumPy", "pip install 'gankernels[bfloat16]'"),
}
ENVIRONMENT = ("GANKERNELS_ISA", "GANKERNELS_NUM_THREADS", "GANKERNELS_CUDA", "GANKERNELS_CUDA_BACKEND")


def collect() -> dict[str, Any]:
    """Everything that the report says, as plain JSON types.

    Returns
    -------
    dict
        "versions", "build", "devices" (None or why not, for each device), "kernels" (which backend serves each on each
        device, and why), "cuda" (device, driver, embedded code), "isa", "threads", "conv_algorithm", "conv_plans" (the
        path of every pass of some layers), "optional" (version, or None with the command that installs it) and
        "environment".
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
        "kernels": registry.served(),
        "cuda": _cuda(),
        "isa": {
            "compiled": list(cpu.isa_compiled()),
            "present": list(cpu.isa_present()),
            "chosen": cpu.isa(),
            "bf16_products": cpu.has_bf16_products(),
            "tiles": {"why_not": cpu.why_no_tiles(), "emulated": cpu.tiles_are_emulated()},
        },
        "threads": {"used": cpu.num_threads(), "cores": _cores()},
        "conv_algorithm": gankernels.conv_algorithm(),
        "conv_plans": _conv_plans(),
        "optional": {name: _optional(name) for name in OPTIONAL},
        "environment": {name: os.environ.get(name) for name in ENVIRONMENT},
    }


def _cuda() -> dict[str, Any]:
    """Which device serves "cuda", what the driver offers, and for which devices the compiled module holds code."""
    module: Any = backends.get("cuda") if backends.why_not("cuda") is None else None
    said = module.device_info() if hasattr(module, "device_info") else {}
    device = {
        key: said[key] for key in ("name", "compute_capability", "multiprocessors", "memory_bytes") if key in said
    }
    return {
        "device": device or (driver.gpus()[0] if module is not None and driver.gpus() else None),
        "emulated": bool(said.get("emulated", False)),
        "driver": {"version": driver.version(), "problem": driver.problem(), "gpus": driver.gpus()},
        "embedded": _embedded(),
        "backends": {kind: backends.cuda_backend(kind)[1] for kind in backends.CUDA_BACKENDS},
    }


def _embedded() -> dict[str, Any]:
    """Of the compiled module: machine code by architecture, and PTX, which newer devices compile at its first use."""
    try:
        built = importlib.import_module("gankernels._build_info")
    except ModuleNotFoundError:
        return {"machine_code": [], "ptx": []}
    names = built.cuda_archs.split(";") if built.cuda_archs else []
    parts = [name.partition("-") for name in names]
    return {
        "machine_code": [f"sm_{number}" for number, _, kind in parts if kind != "virtual"],
        "ptx": [f"compute_{number}" for number, _, kind in parts if kind != "real"],
    }


# name -> x, w, options of layers whose paths the report shows
_LAYERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "3DGAN 32->8, 25x25x25, batch 16": ((16, 32, 25, 25, 25), (8, 32, 5, 5, 5), {"padding": 2}),
    "3DGAN 8->64, 7x7x8, batch 1": ((1, 8, 7, 7, 8), (64, 8, 6, 6, 8), {"padding": "same"}),
    "DCGAN 256->512, 8x8, batch 16": ((16, 256, 8, 8), (512, 256, 4, 4), {"stride": 2, "padding": 1}),
}


def _conv_plans() -> dict[str, dict[str, str]]:
    algorithm = gankernels.conv_algorithm()
    gradient = {"auto": "fast", "measured": "measured_fast"}.get(algorithm, algorithm)
    asked = {"y": algorithm, "x": gradient, "w": gradient}
    return {
        name: {slot: gankernels.conv_plan(x, w, slot=slot, algorithm=a, **options).path for slot, a in asked.items()}
        for name, (x, w, options) in _LAYERS.items()
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
        "devices",
        f"  cpu   yes ({build['compiler']}, {build['build_type']})"
        if "compiler" in build
        else f"  cpu   yes ({build['record']})",
        f"  cuda  yes  ({_said(report, 'GANKERNELS_CUDA_BACKEND')})"
        if report["devices"]["cuda"]["usable"]
        else f"  cuda  no: {report['devices']['cuda']['why_not']}",
        *_device_lines(report["cuda"]),
        *_serving(report["kernels"]),
        "",
        "processor",
        f"  instruction sets compiled  {', '.join(isa['compiled'])}",
        f"  present on this machine    {', '.join(isa['present'])}",
        f"  chosen                     {isa['chosen']}  ({_said(report, 'GANKERNELS_ISA')})",
        f"  bfloat16 products          {_bf16_products(isa)}",
        f"  threads                    {threads['used']} of {threads['cores']} cores  "
        f"({_said(report, 'GANKERNELS_NUM_THREADS')})",
        f"  convolution algorithm      {report['conv_algorithm']}; for example",
        *(
            f"    {name:<33} forward {plan['y']}, input gradient {plan['x']}, weights gradient {plan['w']}"
            for name, plan in report["conv_plans"].items()
        ),
        "",
        "optional packages",
    ]
    for name, found in report["optional"].items():
        state = found["version"] or f"absent; {found['install']}"
        lines.append(f"  {name:<12} {found['purpose']:<21} {state}")
    return "\n".join(lines)


def _bf16_products(isa: dict[str, Any]) -> str:
    """What multiplies rounded numbers, and why AMX does not."""
    if isa["chosen"] == "amx":
        return "a model of AMX tiles, for tests" if isa["tiles"]["emulated"] else "AMX tiles"
    vectors = "AVX512-BF16" if isa["bf16_products"] else "of rounded operands, in float32"
    return f"{vectors}; no AMX tiles: {isa['tiles']['why_not'] or 'another instruction set was chosen'}"


def _device_lines(cuda: dict[str, Any]) -> list[str]:
    device, found, code = cuda["device"], cuda["driver"], cuda["embedded"]
    lines = []
    if device is not None:
        lines.append(
            f"        {device['name']}, compute capability {device['compute_capability']}, "
            f"{device['multiprocessors']} multiprocessors, {device['memory_bytes'] / 2**30:.1f} GiB"
        )
    lines.append(
        f"        driver: {found['problem']}"
        if found["problem"]
        else f"        driver for CUDA {found['version']}: {', '.join(gpu['name'] for gpu in found['gpus'])}"
    )
    if cuda["emulated"]:
        lines.append("        compiled module: for the emulator, which runs on the processor, for tests")
    elif code["machine_code"]:
        newer = f", PTX {', '.join(code['ptx'])} for newer ones" if code["ptx"] else ""
        lines.append(f"        compiled module: machine code for {', '.join(code['machine_code'])}{newer}")
    else:
        lines.append("        compiled module: not built")
    return lines


def _serving(kernels: dict[str, Any]) -> list[str]:
    """Which backend serves which kernels of each device: those served alike in one line."""
    lines = ["", "kernels"]
    for device, found in kernels.items():
        groups: dict[str | None, list[str]] = {}
        for name, backend in found["kernels"].items():
            groups.setdefault(backend, []).append(name)
        if set(groups) == {None}:
            lines.append(f"  {device:<5} none of the {len(found['kernels'])}, for the reason above")
            continue
        for backend, names in groups.items():
            what = f"all {len(names)}" if len(groups) == 1 else f"{len(names)}: {', '.join(names)}"
            lines.append(f"  {device:<5} {backend or 'none'} ({found['reason']}), {what}")
    return lines


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
