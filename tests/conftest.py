"""What the tests share: which parts must be there, every instruction set, thread counts, hypothesis profiles."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# `python -m pytest` puts the checkout on sys.path. Without a compiled module in it, the installed package is meant.
if not list((ROOT / "gankernels").glob("_cpu*")):
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
elif any(Path(entry or ".").resolve() == ROOT for entry in sys.path):  # also for the processes that tests start
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

import devices  # noqa: E402
import hypothesis  # noqa: E402

import gankernels as gk  # noqa: E402
from gankernels.backends import cpu  # noqa: E402

OPTIONAL = ("torch",)

hypothesis.settings.register_profile("quick", deadline=None, derandomize=True, max_examples=25, database=None)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=500)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

_required: set[str] = set()
_served_by: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require",
        action="append",
        default=[],
        choices=(*OPTIONAL, "cuda"),
        help="a part that must be there: tests that would be skipped for want of it fail (also: GANKERNELS_REQUIRE)",
    )
    parser.addoption(
        "--device",
        default="cpu",
        choices=("cpu", "cuda"),
        help="run the suite with this default device; cuda is the backend that GANKERNELS_CUDA_BACKEND or this machine "
        "provides, or else a stand-in in host memory that refuses to be read silently",
    )


def pytest_configure(config: pytest.Config) -> None:
    _required.update(config.getoption("--require"), os.environ.get("GANKERNELS_REQUIRE", "").replace(",", " ").split())
    for name in sorted(_required):
        if name == "cuda":
            continue
        if name not in OPTIONAL:
            raise pytest.UsageError(f"GANKERNELS_REQUIRE names {name!r}; expected some of {', '.join(OPTIONAL)}, cuda")
        if importlib.util.find_spec(name) is None:
            raise pytest.UsageError(f"{name} is required by this run, but it is not installed")
    config.addinivalue_line(
        "markers", "cpu_only: about the CPU's own ways, or about files and builds; not repeated on a device"
    )
    config.addinivalue_line(
        "markers",
        "much_work(flops=0): thousands of kernels, or millions of multiplications; not on a simulated device, nor on "
        "an emulated one with more operations than tests/devices.py says",
    )
    _served_by.append(devices.start(config.getoption("--device"), "cuda" in _required))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--device") != "cpu":
        for item in items:
            if item.get_closest_marker("cpu_only"):
                item.add_marker(pytest.mark.skip(reason="not about a device"))
            elif reason := devices.fit(item):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_report_header(config: pytest.Config) -> list[str]:
    absent = [name for name in OPTIONAL if importlib.util.find_spec(name) is None]
    missing = [name for name in cpu.isa_compiled() if name not in cpu.isa_present()]
    return [
        f"gankernels: device {', '.join(_served_by)}",
        f"gankernels: {gk.__version__}, ISA {', '.join(cpu.isa_present())}, {cpu.num_threads()} threads",
        *(f"gankernels: {name} is not installed; the tests that compare with it are skipped" for name in absent),
        *(f"gankernels: this processor has no {name}; its tests are skipped" for name in missing),
    ]


def _fail_if_required(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        skipped = report.longrepr  # (path, line, reason): only the reason may name the part
        reason = str(skipped[2] if isinstance(skipped, tuple) else skipped)
        for name in _required:
            if name in reason:
                report.outcome = "failed"
                report.longrepr = f"skipped although {name} is required: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    _fail_if_required(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report = yield
    _fail_if_required(report)
    return report


@pytest.fixture(scope="session", autouse=True)
def _outside_the_checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests, and the processes they start, run in a folder where `import gankernels` cannot find the sources."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    yield
    os.chdir(before)


# "amx" has the loops of "avx512" but for products of bfloat16 pairs, whose tests set it themselves.
@pytest.fixture(params=[name for name in cpu.isa_compiled() if name != "amx"])
def every_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once for each instruction set compiled in; those that this processor lacks are skipped."""
    if request.param not in cpu.isa_present():
        pytest.skip(f"this processor has no {request.param}")
    if gk.get_default_device() != "cpu" and request.param != cpu.isa():
        pytest.skip("instruction sets are the CPU's")
    before = cpu.isa()
    cpu.set_isa(request.param)
    yield request.param
    cpu.set_isa(before)


@pytest.fixture
def restore_knobs() -> Iterator[None]:
    """Puts back what a test sets for all that comes after: convolution paths, fusion, instruction set, threads."""
    algorithm, fusion, isa, threads = gk.ops.conv_algorithm(), gk.fusion(), cpu.isa(), cpu.num_threads()
    yield
    gk.set_conv_algorithm(algorithm)
    gk.set_fusion(fusion)
    cpu.set_isa(isa)
    cpu.set_num_threads(threads)


@pytest.fixture
def thread_counts() -> Iterator[tuple[int, ...]]:
    """The thread counts to compare, also more than there are cores (on a device, where they change nothing, the one in
    use); the count in use is restored afterwards."""
    before = gk.num_threads()
    yield (1, 2, 3) if gk.get_default_device() == "cpu" else (before,)
    gk.set_num_threads(before)
