"""Products of bfloat16 pairs by AMX tiles: what reaches which sum, when tiles are in use, and where their code lies.

That the numbers are right is asked of "amx", as of every instruction set, in test_bf16_kernels.py and
test_conv_kernels.py.
On processors without AMX a build with GANKERNELS_AMX=emulated runs the same kernels on a model of the instructions.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gankernels.backends import cpu
from gankernels.backends.opcodes import CONV_ALGORITHMS, MATMUL_PRECISIONS
from gankernels.geometry import ConvGeometry, conv_geometry
from gankernels.ops.conv_plan import plan
from gankernels.testing import oracle

pytestmark = pytest.mark.cpu_only
BF16 = CONV_ALGORITHMS["bf16"]
TILES = re.compile(r"\t(ldtilecfg|tilerelease|tilezero|tileloadd|tilestored|tdp\w+)\b")


@pytest.fixture
def tiles() -> Iterator[None]:
    """Tiles in use, on the processor or by their model."""
    if "amx" not in cpu.isa_present():
        pytest.skip(f"no AMX tiles: {cpu.why_no_tiles()}")
    isa, threads = cpu.isa(), cpu.num_threads()
    cpu.set_isa("amx")
    yield
    cpu.set_isa(isa)
    cpu.set_num_threads(threads)


@pytest.fixture
def model(tiles: None) -> Any:
    """The same, by their model, which counts."""
    if not cpu.tiles_are_emulated():
        pytest.skip("the processor does not count products")
    return cpu.native


def geometry(x: tuple[int, ...], w: tuple[int, ...], **options: Any) -> ConvGeometry:
    return conv_geometry("test", x, w, **options)


# runs of one tile and of whole tiles, with ends of 1 and of 15 pairs, joined along W, in blocks, with gaps
RUNS = {
    "one end": geometry((1, 3, 4, 5), (17, 3, 2, 1), padding=(1, 0)),
    "whole": geometry((1, 64, 4, 9), (33, 64, 3, 3), padding=1),
    "an odd channel": geometry((2, 33, 5, 6), (20, 33, 3, 2), stride=2, padding=1),
    "blocks and an end": geometry((1, 142, 3, 4), (34, 142, 3, 3), padding=1),
    "joined": geometry((1, 5, 4, 19), (40, 5, 2, 5), padding=(0, 2)),
    "groups": geometry((1, 70, 3, 20), (36, 35, 2, 3), padding=1, groups=2),
}


def values_that_spoil(rng: Any, shape: tuple[int, ...]) -> Any:
    """Small integers, and a few NaN and infinities."""
    x = rng.integers(-4, 5, shape).astype(np.float32)
    bad = rng.choice(x.size, max(1, x.size // 200), replace=False)
    x.ravel()[bad] = rng.choice(np.array([np.nan, np.inf, -np.inf], np.float32), bad.size)
    return x


@pytest.mark.parametrize("slot", ["y", "x"])
@pytest.mark.parametrize("name", RUNS)
def test_what_is_not_finite_reaches_the_sums_that_read_it_and_no_other(tiles: None, name: str, slot: str) -> None:
    g, rng = RUNS[name], np.random.default_rng(2)
    w = rng.integers(1, 4, g.w_shape).astype(np.float32)
    given = values_that_spoil(rng, g.x_shape if slot == "y" else g.y_shape)
    found = np.full(g.y_shape if slot == "y" else g.x_shape, np.nan, np.float32)
    with np.errstate(invalid="ignore"):
        if slot == "y":
            cpu.conv(given, w, found, g.pod, BF16)
            want = oracle.conv(given.astype(np.float64), w.astype(np.float64), g)
        else:
            cpu.conv_transpose(given, w, found, g.pod, BF16)
            want = oracle.conv_transpose(given.astype(np.float64), w.astype(np.float64), g)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(want))
    np.testing.assert_array_equal(found[np.isfinite(want)], want[np.isfinite(want)])


@pytest.mark.parametrize("name", RUNS)
def test_what_is_not_finite_in_x_reaches_the_weights_that_read_it_and_no_other(tiles: None, name: str) -> None:
    g, rng = RUNS[name], np.random.default_rng(4)
    x, y = values_that_spoil(rng, g.x_shape), rng.integers(1, 4, g.y_shape).astype(np.float32)
    found = np.full(g.w_shape, np.nan, np.float32)
    with np.errstate(invalid="ignore"):
        cpu.conv_weight(x, y, found, g.pod, BF16)
        want = oracle.conv_weight(x.astype(np.float64), y.astype(np.float64), g)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(want))
    np.testing.assert_array_equal(found[np.isfinite(want)], want[np.isfinite(want)])


@pytest.mark.parametrize("shape", [(17, 33, 47), (40, 64, 16), (31, 601, 33)])
def test_a_row_and_a_column_that_are_not_finite_spoil_themselves_only(tiles: None, shape: tuple[int, ...]) -> None:
    M, K, N = shape
    a, b = np.ones((1, M, K), np.float32), np.ones((1, K, N), np.float32)
    a[0, 3, K - 1], b[0, K - 1, 5] = np.nan, np.inf
    c = np.zeros((1, M, N), np.float32)
    cpu.matmul(a, b, c, MATMUL_PRECISIONS["bf16"])
    clean = np.ones((M, N), bool)
    clean[3], clean[:, 5] = False, False
    np.testing.assert_array_equal(np.isfinite(c[0]), clean)
    assert (c[0][clean] == K).all()


def run(g: ConvGeometry, slot: str) -> None:
    x, w, y = (np.ones(shape, np.float32) for shape in (g.x_shape, g.w_shape, g.y_shape))
    {
        "y": lambda: cpu.conv(x, w, y, g.pod, BF16),
        "x": lambda: cpu.conv_transpose(y, w, x, g.pod, BF16),
        "w": lambda: cpu.conv_weight(x, y, w, g.pod, BF16),
    }[slot]()


@pytest.mark.parametrize("threads", [1, 3])
def test_tiles_do_the_products_and_are_given_up_when_a_kernel_ends(model: Any, threads: int) -> None:
    cpu.set_num_threads(threads)
    for slot in "yxw":
        before = model.tile_products_done()
        run(RUNS["whole"], slot)
        assert model.tile_products_done() > before
        assert model.threads_with_tiles() == 0
    before = model.tile_products_done()
    cpu.matmul(*(np.ones((1, 64, 64), np.float32) for _ in range(3)), MATMUL_PRECISIONS["bf16"])
    assert model.tile_products_done() - before == 4 * 4 * 2
    assert model.threads_with_tiles() == 0


def test_avx512_does_without_tiles(model: Any) -> None:
    cpu.set_isa("avx512")
    before = model.tile_products_done()
    run(RUNS["whole"], "y")
    assert model.tile_products_done() == before


def test_a_layer_of_many_channels_is_priced_lower_with_tiles(tiles: None) -> None:
    g = geometry((16, 128, 32, 32), (256, 128, 4, 4), stride=2, padding=1)
    for slot in "yxw":
        cpu.set_isa("amx")
        with_tiles = plan(g, slot, CONV_ALGORITHMS["bf16_auto"])
        cpu.set_isa("avx512")
        without = plan(g, slot, CONV_ALGORITHMS["bf16_auto"])
        assert with_tiles.path == without.path == "bf16"
        assert with_tiles.costs["bf16"] < without.costs["bf16"]


@pytest.mark.parametrize("isa", cpu.isa_present())
def test_the_environment_chooses_any_instruction_set_that_is_present(isa: str) -> None:
    said = "from gankernels.backends import cpu; print(cpu.isa())"
    environment = {**os.environ, "GANKERNELS_ISA": isa}
    done = subprocess.run([sys.executable, "-c", said], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == isa


def test_a_model_of_tiles_is_never_the_default() -> None:
    said = "from gankernels.backends import cpu; print(cpu.isa())"
    environment = {name: value for name, value in os.environ.items() if name != "GANKERNELS_ISA"}
    done = subprocess.run([sys.executable, "-c", said], env=environment, capture_output=True, text=True, check=True)
    best = [name for name in cpu.isa_present() if name != "amx" or not cpu.tiles_are_emulated()][-1]
    assert done.stdout.strip() == best


def test_tile_instructions_lie_together_in_the_module_and_their_products_in_loops() -> None:
    """They are those of one small file, which nothing calls unless "amx" is chosen."""
    if cpu.tiles_are_emulated() or shutil.which("objdump") is None:
        pytest.skip("tiles are emulated" if cpu.tiles_are_emulated() else "no disassembler")
    code = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", cpu.native.__file__], capture_output=True, text=True, check=True
    ).stdout
    lines = [line for line in code.splitlines() if ":\t" in line]
    address = [int(line.split(":")[0], 16) for line in lines]
    found = [i for i, line in enumerate(lines) if TILES.search(line)]
    if "amx" not in cpu.isa_compiled():
        assert not found
        return
    names = {TILES.search(lines[i])[1] for i in found}  # type: ignore[index]
    assert names == {"ldtilecfg", "tilerelease", "tilezero", "tileloadd", "tilestored", "tdpbf16ps"}
    first, last = found[0], found[-1]
    assert address[last] - address[first] < 1 << 14, "tile instructions in more than one place"
    loops = [
        (int(target, 16), address[i])
        for i in range(first, last + 1)
        for target in re.findall(r"\tj\w+ +([0-9a-f]+)", lines[i])
        if int(target, 16) < address[i]
    ]
    products = [address[i] for i in found if "tdpbf16ps" in lines[i]]
    assert len(products) >= 4
    assert all(any(begin <= at <= end for begin, end in loops) for at in products)
