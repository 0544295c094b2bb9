"""The arrows of the design, read from the sources: which room may import which, in Python and in C++."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gankernels.backends import cpu, cuda, cuda_numba, opcodes, philox

pytestmark = pytest.mark.cpu_only
ROOT = Path(__file__).resolve().parents[1]
PACKAGE, CSRC = ROOT / "gankernels", ROOT / "csrc"

# Room of gankernels -> the rooms it may import; itself and `_extras` always. "gankernels" is the package's __init__.
ARROWS = {
    "dtypes": set(),
    "geometry": set(),
    "autograd": {"dtypes"},
    "backends": {"dtypes"},
    "ops": {"autograd", "backends", "dtypes", "geometry"},
    "nn": {"ops", "autograd", "dtypes", "geometry"},
    "optim": {"ops", "autograd", "backends", "dtypes"},
    "gan": {"nn", "optim", "ops", "autograd", "gankernels"},
    # Where networks and showers meet: the recipes, and the GAN of showers that they share.
    "gan.recipes": {"geometry", "nn", "optim", "ops", "autograd", "gankernels", "gan", "calo"},
    "calo": {"nn", "optim", "ops", "autograd", "gankernels"},
    "testing": {"geometry", "autograd", "ops", "nn", "backends", "gankernels"},
    "interop": {"nn", "ops", "autograd", "gankernels"},
    "info": {"backends", "gankernels"},
    "cli": {"gan", "gan.recipes", "calo", "info", "nn", "optim", "ops", "autograd", "backends", "gankernels"},
    "gankernels": {"nn", "ops", "optim", "autograd", "backends", "dtypes"},
}
# Imported inside the functions that use them, so that `import gankernels` and unrelated commands do without.
HEAVY = {
    "h5py", "matplotlib", "tqdm", "safetensors", "torch", "tensorboard", "tensorboardX", "scipy", "tomli", "ml_dtypes",
}  # fmt: skip

PYTHON_FILES = sorted(PACKAGE.rglob("*.py"))
CPP_FILES = sorted(f for pattern in ("*.hpp", "*.cpp", "*.inl", "*.inc", "*.cu", "*.cuh") for f in CSRC.rglob(pattern))


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _room(module: str) -> str:
    """The room of a module given by its dotted name after "gankernels."."""
    parts = module.split(".")
    if parts[:2] in (["gan", "recipes"], ["gan", "showers"]):
        return "gan.recipes"
    if parts[0] == "__main__":
        return "cli"
    return parts[0] if parts[0] in ARROWS else "gankernels"


def _room_of(path: Path) -> str:
    return _room(".".join(path.relative_to(PACKAGE).with_suffix("").parts))


def _imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(dotted module, line) of every import of a file, at any depth, except those for type checkers only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            if node.module == "gankernels":  # from gankernels import nn: a room or a public name
                yield from ((f"gankernels.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield node.module or "", node.lineno


def _rooms_imported(path: Path) -> Iterator[tuple[str, int]]:
    for module, line in _imports(ast.parse(path.read_text())):
        if module == "gankernels":
            yield "gankernels", line
        elif module.startswith("gankernels."):
            name = module.removeprefix("gankernels.")
            if name.split(".")[0] not in ("_extras", "_cpu", "_build_info"):
                yield _room(name), line


def _at_import(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Imports that run when the module is imported: everything outside functions and outside TYPE_CHECKING."""

    def visit(node: ast.AST) -> Iterator[tuple[str, int]]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from _imports(node)
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    yield from visit(tree)


@pytest.mark.parametrize("path", PYTHON_FILES, ids=_name)
def test_a_room_imports_only_the_rooms_below_it(path: Path) -> None:
    room = _room_of(path)
    wrong = [
        f"line {line}: {room} imports {other}"
        for other, line in _rooms_imported(path)
        if other != room and other not in ARROWS[room]
    ]
    assert not wrong, f"{_name(path)}: {'; '.join(wrong)}"


def test_the_tape_imports_nothing_of_ours() -> None:
    assert list(_rooms_imported(PACKAGE / "autograd" / "tape.py")) == []


def _names_native(tree: ast.AST) -> bool:
    named = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return "gankernels._cpu" in named | {module for module, _ in _imports(tree)}


def test_only_the_cpu_backend_touches_the_native_module() -> None:
    users = {_name(path) for path in PYTHON_FILES if _names_native(ast.parse(path.read_text()))}
    assert users == {"gankernels/backends/cpu.py"}


@pytest.mark.parametrize("path", PYTHON_FILES, ids=_name)
def test_heavy_packages_are_imported_where_they_are_used(path: Path) -> None:
    wrong = [f"line {line}: {m}" for m, line in _at_import(ast.parse(path.read_text())) if m.split(".")[0] in HEAVY]
    assert not wrong, f"{_name(path)} imports at its top: {'; '.join(wrong)}"


# ---- C++ -----------------------------------------------------------------------------------------------------------
def _includes(path: Path) -> tuple[list[Path], list[str]]:
    """The files of ours and the system headers that a C++ file includes."""
    code = path.read_text()
    ours = [(path.parent / name).resolve() for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', code, re.M)]
    return ours, re.findall(r"^\s*#\s*include\s+<([^>]+)>", code, re.M)


def _cpp_room(path: Path) -> str:
    return path.relative_to(CSRC).parts[0]


@pytest.mark.parametrize("path", CPP_FILES, ids=_name)
def test_a_cpp_room_includes_only_the_rooms_below_it(path: Path) -> None:
    may = {
        "core": {"core"},
        "cpu": {"core", "cpu"},
        "cuda": {"core", "cuda"},
        "bindings": {"core", "cpu", "cuda", "bindings"},
    }
    ours, system = _includes(path)
    room = _cpp_room(path)
    assert {_cpp_room(other) for other in ours} <= may[room], f"{_name(path)} includes {[o.name for o in ours]}"
    if room != "bindings":
        python = [header for header in system if header.startswith(("pybind11", "Python"))]
        assert not python, f"{_name(path)} includes {python}: only csrc/bindings sees Python"
    if room == "core":
        foreign = [h for h in system if h.startswith("cuda") or "intrin" in h or h == "omp.h"]
        assert not foreign, f"{_name(path)} includes {foreign}: core knows no CUDA, intrinsics or OpenMP"


@pytest.mark.parametrize("path", sorted((CSRC / "cpu" / "isa").glob("*.inl")), ids=_name)
def test_code_compiled_per_instruction_set_includes_no_standard_header(path: Path) -> None:
    # Compiled with -mavx512f, an inline function of a standard header may be the copy that the linker keeps for all.
    _, system = _includes(path)
    allowed = {"immintrin.h", "cstdint", "stdint.h", "cstddef", "stddef.h"}  # types and intrinsics only
    assert set(system) <= allowed, f"{_name(path)} includes {sorted(set(system) - allowed)}"


# ---- one list of kernels -------------------------------------------------------------------------------------------
def _declared_kernels(file: str = "kernels.inc") -> set[str]:
    return set(re.findall(r"^template <class [^>]*>\s+void (\w+)\(", (CSRC / "core" / file).read_text(), re.M))


def _bound_kernels(file: str) -> set[str]:
    return set(re.findall(r"GK_BIND\w*\(m, (\w+)", (CSRC / "bindings" / file).read_text()))


def test_every_kernel_is_bound() -> None:
    bound = _bound_kernels("bind_kernels.inc") | _bound_kernels("module_cpu.cpp")
    assert bound == _declared_kernels() | _declared_kernels("epilogues.inc") | {"epilogue", "conv_gradients"}


@pytest.mark.parametrize("module", ["module_cpu.cpp", "module_cuda.cpp"])
def test_both_modules_bind_the_same_list(module: str) -> None:
    assert '#include "bind_kernels.inc"' in (CSRC / "bindings" / module).read_text()


@pytest.mark.parametrize("backend", [cpu, cuda, cuda_numba], ids=lambda b: b.__name__)
def test_every_backend_has_every_kernel(backend: Any) -> None:
    names = set(vars(backend))
    for functions in getattr(backend, "FAMILIES", {}).values():  # which are loaded when they are asked for
        names |= set(functions.split())
    assert _declared_kernels() | _declared_kernels("epilogues.inc") <= names


@pytest.mark.parametrize(
    ("macro", "table"),
    [("GK_UNARY_OPS", opcodes.UNARY), ("GK_BINARY_OPS", opcodes.BINARY), ("GK_COMPARE_OPS", opcodes.COMPARE)],
)
def test_operation_numbers_are_the_same_in_python_and_cpp(macro: str, table: dict[str, int]) -> None:
    code = (CSRC / "core" / "operators.hpp").read_text()
    definition = re.search(rf"#define {macro}\(X\)((?:.*\\\n)*.*\n)", code)
    assert definition is not None
    names = re.findall(r"X\((\w+)\)", re.sub(r"/\*.*?\*/", "", definition.group(1)))
    assert {name: i for i, name in enumerate(names)} == table


def test_convolution_algorithms_have_the_same_numbers_in_python_and_cpp() -> None:
    code = "".join((CSRC / "core" / name).read_text() for name in ("geometry.hpp", "operators.hpp"))
    definition = re.search(r"enum class ConvAlgorithm[^{]*\{([^}]*)\}", code)
    assert definition is not None
    names = [entry.split("=")[0].strip() for entry in definition.group(1).split(",") if entry.strip()]
    # "auto" is a keyword of C++
    assert {name.replace("automatic", "auto"): i for i, name in enumerate(names)} == opcodes.CONV_ALGORITHMS


def test_precisions_of_products_have_the_same_numbers_in_python_and_cpp() -> None:
    code = (CSRC / "core" / "operators.hpp").read_text()
    definition = re.search(r"enum class MatmulPrecision[^{]*\{([^}]*)\}", code)
    assert definition is not None
    numbers = {name: int(number) for name, number in re.findall(r"(\w+) = (\d+)", definition.group(1))}
    assert numbers == opcodes.MATMUL_PRECISIONS


def test_the_constants_of_philox_are_the_same_in_python_and_cpp() -> None:
    code = (CSRC / "core" / "philox.hpp").read_text()
    numbers = {int(n, 16) for n in re.findall(r"\b0x([0-9A-Fa-f]{8})u\b", code)}
    assert set(philox.MULTIPLIERS + philox.KEY_STEPS) == numbers
    assert f"kPhiloxRounds = {philox.ROUNDS};" in code
    users = [p for p in CSRC.rglob("*") if p.is_file() and "kPhiloxA" in p.read_text()]
    assert {p.name for p in users} == {"philox.hpp", "random.inl", "philox.cuh"}
    others = [p for p in CSRC.rglob("*") if p.is_file() and "D2511F53" in p.read_text().upper()]
    assert [p.name for p in others] == ["philox.hpp"]
    assert float(re.search(r"([0-9.]+e-8)f", code)[1]) == 2.0**-philox.FLOAT_BITS  # type: ignore[index]
    assert float(re.search(r"([0-9.]+e-16)\b", code)[1]) == 2.0**-philox.DOUBLE_BITS  # type: ignore[index]


# ---- reading size --------------------------------------------------------------------------------------------------
SOURCES = [*PYTHON_FILES, *CPP_FILES, *sorted((ROOT / "tests").rglob("*.py"))]


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_a_file_is_short_enough_to_read_and_holds_no_leftovers(path: Path) -> None:
    code = path.read_text()
    assert code.count("\n") <= 500
    marks = "TO" + "DO", "FIX" + "ME", "X" * 3 + ":"
    assert not [mark for mark in marks if mark in code]
