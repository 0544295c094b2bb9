"""Reading and writing showers: the three layouts, units, grids, conversion of types, and files that appear whole."""

from __future__ import annotations

import math
import os

import h5py
import numpy as np
import pytest

from gankernels.calo import (
    Binning,
    Grid,
    ShowerFileError,
    Showers,
    ShowerWriter,
    from_par04_order,
    open_showers,
    read_binning,
    sha256_of,
    simulate_to_file,
    to_par04_order,
    write_binning,
    write_showers,
)
from gankernels.calo.units import energy_factor

BINNING = Binning(5, 4, (0.0, 4.65, 9.3, 20.0))


def some_showers(n=7, grid=None, **conditions):
    grid = grid or Grid((3, 4, 5))
    rng = np.random.default_rng(1)
    cells = rng.exponential(0.01, (n, *grid.shape)).astype(np.float32)
    return Showers(cells, np.linspace(10, 100, n, dtype=np.float32), grid, conditions)


def angles(n=7):
    return {"theta_rad": np.linspace(1, 2, n, dtype=np.float32), "pdg_id": np.full(n, 11, np.float32)}


def raw(path, file_attributes=None, **datasets):
    """A file with these datasets; a value (array, attributes) sets attributes of the dataset."""
    with h5py.File(path, "w") as file:
        file.attrs.update(file_attributes or {})
        for name, value in datasets.items():
            data, attributes = value if isinstance(value, tuple) else (value, {})
            file.create_dataset(name, data=data).attrs.update(attributes)
    return path


@pytest.mark.parametrize("kind", ["3dgan-angle", "3dgan"])
@pytest.mark.parametrize("unit", ["GeV", "MeV", "GeV/50"])
def test_cartesian_showers_come_back_as_written(tmp_path, kind, unit):
    written = some_showers(**(angles() if kind == "3dgan-angle" else {}))
    write_showers(tmp_path / "s.h5", written, kind=kind, unit=unit, attributes={"seed": 3})
    with open_showers(tmp_path / "s.h5") as file:
        assert (file.kind, file.unit, file.n_events, file.grid) == (kind, unit, 7, written.grid)
        assert file.condition_names == tuple(written.conditions)
        read = file.read()
        assert read.cells_gev.dtype == np.float32
        # Two roundings to float32, one in each direction.
        assert np.allclose(read.cells_gev, written.cells_gev, rtol=2.0**-22, atol=0)
        assert np.array_equal(read.energy_gev, written.energy_gev)
        assert np.array_equal(file.energies(), written.energy_gev)
        for name, values in written.conditions.items():
            assert np.array_equal(read.conditions[name], values)
        part = file.read(2, 5)
        assert np.array_equal(part.cells_gev, read.cells_gev[2:5])
        assert file.checksum() == sha256_of(tmp_path / "s.h5")


def test_cylindrical_showers_come_back_as_written_with_r_fastest_and_in_mev(tmp_path):
    written = some_showers(grid=BINNING.grid())
    write_showers(tmp_path / "s.h5", written)
    with h5py.File(tmp_path / "s.h5") as file:
        assert file["showers"].shape == (7, 60)
        assert file["incident_energies"].shape == (7, 1)
        assert abs(file["incident_energies"][0, 0] - 10_000) <= 1e-3
        stored = file["showers"][2, (3 * 4 + 1) * 3 + 2]
        assert abs(stored / 1e3 / written.cells_gev[2, 3, 1, 2] - 1) <= 1e-6
    with open_showers(tmp_path / "s.h5") as file:
        assert (file.kind, file.unit, file.grid) == ("calochallenge", "MeV", written.grid)
        assert np.allclose(file.read().cells_gev, written.cells_gev, rtol=2.0**-22, atol=0)


def test_the_edges_of_a_simulated_grid_are_in_the_file(tmp_path):
    for name, settings in {"box.h5": {}, "cylinder.h5": {"axes": "cylindrical"}}.items():
        simulate_to_file(tmp_path / name, 3, (5, 5), (4, 4, 6), seed=1, **settings)
        with open_showers(tmp_path / name) as file:
            assert file.grid.units == (("mm", "mm", "mm") if name == "box.h5" else ("mm", "rad", "mm"))
            assert np.isclose(file.grid.axis_edges(file.grid.depth_axis)[-1], 23 * 6.0)


def test_simulating_to_a_file_gives_the_same_events_in_any_pieces_and_reports_progress(tmp_path):
    seen = []
    simulate_to_file(tmp_path / "a.h5", 5, grid=(4, 4, 4), seed=1, chunk=2, progress=lambda *p: seen.append(p))
    simulate_to_file(tmp_path / "b.h5", 5, grid=(4, 4, 4), seed=1, chunk=5)
    assert seen == [(2, 5), (4, 5), (5, 5)]
    with open_showers(tmp_path / "a.h5") as a, open_showers(tmp_path / "b.h5") as b:
        assert np.array_equal(a.read().cells_gev, b.read().cells_gev)


def test_the_fixed_angle_layout_takes_the_energy_from_the_second_column(tmp_path):
    target = np.array([[11.0, 50.0, 0.0], [11.0, 60.0, 0.0]])
    raw(tmp_path / "s.h5", ECAL=np.ones((2, 3, 3, 3)), target=target)
    with open_showers(tmp_path / "s.h5", unit="GeV") as file:
        assert file.kind == "3dgan"
        assert file.energies().tolist() == [50.0, 60.0]


@pytest.mark.parametrize(
    ("attributes", "on_cells", "factor"),
    [
        ({"units": "GeV, rad"}, {}, 1.0),
        ({"energy_unit": "GeV"}, {"unit": "MeV"}, 1e-3),
        ({"energy_unit": "GeV", "cell_unit": "MeV"}, {}, 1e-3),
        ({"energy_unit": "GeV", "cell_unit": "GeV/50"}, {}, 0.02),
        ({}, {"units": b"keV"}, 1e-6),
    ],
)
def test_the_unit_of_the_cells_is_the_nearest_attribute(tmp_path, attributes, on_cells, factor):
    raw(tmp_path / "s.h5", attributes, ECAL=(np.full((2, 2, 2, 2), 8.0), on_cells), energy=np.array([[20.0], [30.0]]))
    with open_showers(tmp_path / "s.h5") as file:
        showers = file.read()
    assert np.allclose(showers.cells_gev, 8 * factor)
    assert showers.energy_gev.tolist() == [20.0, 30.0]


def test_angles_in_degrees_are_converted_when_the_dataset_says_so(tmp_path):
    theta = (np.array([60.0, 90.0]), {"unit": "deg"})
    raw(tmp_path / "s.h5", ECAL=np.ones((2, 2, 2, 2)), energy=np.array([20.0, 30.0]), theta=theta)
    with open_showers(tmp_path / "s.h5", unit="GeV") as file:
        assert np.allclose(file.read().conditions["theta_rad"], np.radians([60, 90]))


@pytest.mark.parametrize("dtype", ["<f8", ">f4", ">f8", "<f2", "<i4", ">u2"])
def test_every_numeric_type_and_byte_order_is_read_as_float32(tmp_path, dtype):
    cells = np.arange(16).reshape(2, 2, 2, 2).astype(dtype)
    raw(tmp_path / "s.h5", {"cell_unit": "MeV"}, ECAL=cells, energy=np.array([20, 30]).astype(dtype))
    with open_showers(tmp_path / "s.h5") as file:
        showers = file.read()
    assert showers.cells_gev.dtype == np.dtype("=f4")
    assert np.allclose(showers.cells_gev, np.arange(16).reshape(2, 2, 2, 2) * 1e-3)


def test_the_binning_beside_the_file_is_found_and_several_are_told_apart_by_their_cells(tmp_path):
    raw(tmp_path / "s.h5", showers=np.ones((2, 60)), incident_energies=np.full((2, 1), 1000.0))
    write_binning(tmp_path / "binning_dataset_2.xml", BINNING)
    for _ in range(2):
        with open_showers(tmp_path / "s.h5") as file:
            assert file.grid == BINNING.grid()
        (tmp_path / "binning_dataset_9.xml").write_text("<Bins/>")
    with open_showers(tmp_path / "s.h5", grid=Grid((3, 4, 5), ("z", "alpha", "r"))) as file:
        assert file.read().cells_gev.shape == (2, 3, 4, 5)


def test_a_binning_comes_back_as_written(tmp_path):
    write_binning(tmp_path / "b.xml", BINNING)
    assert read_binning(tmp_path / "b.xml") == BINNING
    assert Binning.of(BINNING.grid()) == BINNING
    with pytest.raises(FileExistsError):
        write_binning(tmp_path / "b.xml", BINNING)
    shifted = Grid((2, 2, 1), ("z", "alpha", "r"), ((0, 1, 2), (0, 3, 6), (0, 1)), ("mm", "rad", "mm"))
    with pytest.raises(ValueError, match="equal angular bins"):
        Binning.of(shifted)


def test_bad_events_are_named_and_may_be_dropped(tmp_path):
    showers = some_showers(20, **angles(20))
    showers.cells_gev[3, 0, 0, 0] = np.nan
    showers.cells_gev[4, 0, 0, 0] = -1e-3
    showers.energy_gev[7] = 0.0
    showers.conditions["theta_rad"][9] = 90.0
    showers.conditions["pdg_id"][11] = np.inf
    write_showers(tmp_path / "s.h5", showers)
    with open_showers(tmp_path / "s.h5") as file:
        for rows, said in {
            (0, 20): "event 3 has a cell that is NaN or infinite",
            (4, 20): "event 4 has a cell of negative energy",
            (5, 20): "event 7 has an incident energy",
            (8, 20): "event 9 has a theta_rad outside",
            (10, 20): "event 11 has a pdg_id",
        }.items():
            with pytest.raises(ShowerFileError, match=said):
                file.read(*rows)
        assert file.bad_events().tolist() == [3, 4, 7, 9, 11]
        assert len(file.read(12)) == 8
    with open_showers(tmp_path / "s.h5", on_bad="drop") as file:
        assert len(file.read()) == 15


def test_a_number_that_float32_cannot_hold_is_reported_as_infinite(tmp_path):
    raw(tmp_path / "s.h5", {"units": "GeV"}, ECAL=np.full((1, 2, 2, 2), 1e300), energy=np.array([10.0]))
    with open_showers(tmp_path / "s.h5") as file, pytest.raises(ShowerFileError, match=r"event 0 .* infinite"):
        file.read()


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "s.h5"

    def interrupted():
        with ShowerWriter(target, Grid((3, 4, 5))) as file:
            file.append(some_showers())
            assert not target.exists()
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        interrupted()
    assert os.listdir(tmp_path) == []
    with ShowerWriter(target, Grid((3, 4, 5))) as file:
        file.append(some_showers(3))
        file.append(some_showers(4))
    assert os.listdir(tmp_path) == ["s.h5"]
    with open_showers(target) as read:
        assert read.n_events == 7


def test_a_file_is_never_replaced_unless_asked(tmp_path):
    target = tmp_path / "s.h5"
    write_showers(target, some_showers(3))
    before = sha256_of(target)
    with pytest.raises(FileExistsError, match="exists already"):
        write_showers(target, some_showers(4))
    assert sha256_of(target) == before
    other = tmp_path / "meanwhile.h5"
    file = ShowerWriter(other, Grid((3, 4, 5)))
    file.append(some_showers())
    other.write_text("somebody else's")
    with pytest.raises(FileExistsError, match="meanwhile"):
        file.close()
    assert other.read_text() == "somebody else's"
    assert sorted(os.listdir(tmp_path)) == ["meanwhile.h5", "s.h5"]
    write_showers(target, some_showers(4), overwrite=True)
    with open_showers(target) as file:
        assert file.n_events == 4


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "root"}, "kind 'root'"),
        ({"kind": "calochallenge"}, "does not fit a grid"),
        ({"unit": "furlong"}, "not an energy unit"),
        ({"attributes": {"cell_unit": "MeV"}}, "set by the format"),
        ({"kind": "3dgan"}, "no place for"),
        ({"showers": some_showers(phi_rad=np.zeros(7, np.float32))}, "no place for"),
        ({"showers": some_showers(grid=BINNING.grid()), "unit": "GeV"}, "defined in MeV"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused_and_leaves_nothing(tmp_path, wrong, said):
    with pytest.raises(ValueError, match=said):
        write_showers(tmp_path / "s.h5", **{"showers": some_showers(**angles()), **wrong})
    assert os.listdir(tmp_path) == []


def test_appended_showers_must_fit_the_first(tmp_path):
    with ShowerWriter(tmp_path / "s.h5", Grid((3, 4, 5))) as file:
        file.append(some_showers())
        with pytest.raises(ValueError, match="grid"):
            file.append(some_showers(grid=Grid((3, 4, 6))))
        with pytest.raises(ValueError, match="conditions"):
            file.append(some_showers(**angles()))


def test_par04_order_has_the_depth_fastest_and_goes_back():
    cells = np.arange(2 * 45 * 16 * 9, dtype=np.float32).reshape(2, 45, 16, 9)
    par04 = to_par04_order(cells)
    # Par04 counts (r * n_alpha + alpha) * n_z + z.
    assert par04[1].ravel()[(7 * 16 + 3) * 45 + 20] == cells[1, 20, 3, 7]
    assert np.array_equal(from_par04_order(par04), cells)
    with pytest.raises(ValueError, match="expected"):
        to_par04_order(cells[0])


@pytest.mark.parametrize(
    ("unit", "gev"),
    [("GeV", 1), ("MeV", 1e-3), (" keV ", 1e-6), ("TeV", 1e3), ("eV", 1e-9), ("GeV/50", 0.02), ("0.02 GeV", 0.02)],
)
def test_an_energy_unit_is_a_factor_to_gev(unit, gev):
    assert math.isclose(energy_factor(unit), gev)


@pytest.mark.parametrize("unit", ["", "gev", "J", "GeV/0", "GeV/1e999", "0 GeV", "GeV " * 40, "GeV/-50", "nan GeV"])
def test_other_texts_are_no_energy_unit(unit):
    with pytest.raises(ValueError, match="unit"):
        energy_factor(unit)
