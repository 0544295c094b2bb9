"""Files that are wrong by accident or on purpose: each is answered at once by a readable error."""

from __future__ import annotations

import os
import time
import tracemalloc

import h5py
import numpy as np
import pytest

from gankernels.calo import Grid, ShowerFileError, Showers, open_showers, write_showers

CASES = {}


def refused(said, **options):
    """The function below makes a file in a folder; opening and reading it must give an error that matches `said`."""

    def register(make):
        CASES[make.__name__] = (make, said, options)
        return make

    return register


def angle_file(path, ecal=None, energy=None, units="GeV", **others):
    with h5py.File(path, "w") as file:
        if units:
            file.attrs["units"] = units
        if ecal is not False:
            file["ECAL"] = np.ones((4, 3, 3, 3), np.float32) if ecal is None else ecal
        if energy is not False:
            file["energy"] = np.full((4, 1), 20, np.float32) if energy is None else energy
        for name, value in others.items():
            file[name] = value
    return path


def valid_file(path):
    write_showers(path, Showers(np.ones((64, 9, 9, 9), np.float32), np.full(64, 20, np.float32), Grid((9, 9, 9))))
    return path


@refused("no such file")
def missing_file(folder):
    return folder / "none.h5"


@refused("is a directory")
def directory(folder):
    return folder


@refused("pipe or a device")
def named_pipe(folder):
    os.mkfifo(folder / "pipe.h5")
    return folder / "pipe.h5"


@refused("cannot be looked at")
def path_with_a_nul_byte(folder):
    return str(folder / "a\0b.h5")


@refused("is empty")
def empty_file(folder):
    (folder / "x.h5").touch()
    return folder / "x.h5"


@refused("is not an HDF5 file")
def text_file(folder):
    (folder / "x.h5").write_text("ECAL energy\n1 2\n")
    return folder / "x.h5"


@refused("a ROOT file")
def root_file(folder):
    (folder / "x.h5").write_bytes(b"root" + bytes(100))
    return folder / "x.h5"


@refused("a zip or npz archive")
def npz_file(folder):
    np.savez(folder / "x.npz", ECAL=np.ones(3))
    return folder / "x.npz"


@refused("truncated or damaged")
def truncated_file(folder):
    path = valid_file(folder / "x.h5")
    path.write_bytes(path.read_bytes()[:-200])
    return path


@refused("truncated or damaged|not an HDF5")
def only_the_signature(folder):
    (folder / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    return folder / "x.h5"


@refused("damaged")
def flipped_bytes_in_the_data(folder):
    path = valid_file(folder / "x.h5")
    with h5py.File(path) as file:
        chunk = file["ECAL"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    for i in range(chunk.size):
        content[chunk.byte_offset + i] ^= 0xFF
    path.write_bytes(content)
    return path


@refused("soft or external link")
def external_link(folder):
    valid_file(folder / "other.h5")
    return angle_file(folder / "x.h5", ecal=h5py.ExternalLink("other.h5", "/ECAL"))


@refused("soft or external link")
def soft_link(folder):
    return angle_file(folder / "x.h5", ecal=h5py.SoftLink("/data"), data=np.ones((4, 3, 3, 3)))


@refused("soft or external link")
def soft_link_to_itself(folder):
    return angle_file(folder / "x.h5", ecal=h5py.SoftLink("/ECAL"))


@refused("is a group")
def hard_link_cycle(folder):
    path = angle_file(folder / "x.h5", ecal=False)
    with h5py.File(path, "a") as file:
        file["ECAL"] = file["/"]
    return path


@refused("external file")
def external_storage(folder):
    (folder / "secret").write_bytes(bytes(4 * 108))
    path = angle_file(folder / "x.h5", ecal=False)
    with h5py.File(path, "a") as file:
        file.create_dataset("ECAL", (4, 3, 3, 3), "f4", external=[(str(folder / "secret"), 0, 432)])
    return path


@refused("virtual dataset")
def virtual_dataset(folder):
    valid_file(folder / "other.h5")
    path = angle_file(folder / "x.h5", ecal=False, energy=np.ones(64))
    with h5py.File(path, "a") as file:
        layout = h5py.VirtualLayout((64, 9, 9, 9), "f4")
        layout[:] = h5py.VirtualSource(folder / "other.h5", "ECAL", (64, 9, 9, 9))
        file.create_virtual_dataset("ECAL", layout)
    return path


def declared(folder, shape, chunks, stored=0, **options):
    path = angle_file(folder / "x.h5", ecal=False)
    with h5py.File(path, "a") as file:
        data = file.create_dataset("ECAL", shape, "f4", chunks=chunks, **options)
        if stored:
            data[:stored] = 1
    return path


@refused("at most 2\\^31 events")
def shape_bomb_in_events(folder):
    return declared(folder, (2**40, 25, 25, 25), (1, 25, 25, 25))


@refused("at most 2\\^31 events of at most 2\\^24")
def shape_bomb_in_cells(folder):
    return declared(folder, (4, 8192, 8192, 8192), (1, 64, 64, 64))


@refused("only .* are stored")
def shape_bomb_with_a_little_stored(folder):
    return declared(folder, (2**28, 25, 25, 25), (1, 25, 25, 25), stored=1, compression="gzip")


@refused("nothing of it is stored")
def fill_value_bomb_below_four_gib(folder):
    return declared(folder, (2**15, 30, 30, 30), (1, 30, 30, 30), fillvalue=1.0)


@refused("larger than 1 GiB")
def chunk_bomb(folder):
    return declared(
        folder, (64, 256, 256, 128), (64, 256, 256, 128), compression="gzip", maxshape=(None, 256, 256, 128)
    )


@refused("plugin filter 32015")
def unknown_filter(folder):
    path = angle_file(folder / "x.h5", ecal=False)
    with h5py.File(path, "a") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((1, 3, 3, 3))
        properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((4, 3, 3, 3))
        h5py.h5d.create(file.id, b"ECAL", h5py.h5t.IEEE_F32LE, space, properties)
    return path


@refused("type class vlen")
def variable_length_cells(folder):
    path = angle_file(folder / "x.h5", ecal=False)
    with h5py.File(path, "a") as file:
        file.create_dataset("ECAL", (4, 3, 3, 3), h5py.vlen_dtype(np.float32))
    return path


@refused("type class string")
def text_energies(folder):
    return angle_file(folder / "x.h5", energy=np.array([b"1", b"2", b"3", b"4"]))


@refused("type class compound")
def complex_cells(folder):
    return angle_file(folder / "x.h5", ecal=np.ones((4, 3, 3, 3), np.complex64))


@refused("type class reference")
def object_references(folder):
    path = angle_file(folder / "x.h5", ecal=False)
    with h5py.File(path, "a") as file:
        file.create_dataset("ECAL", (4, 3, 3, 3), h5py.ref_dtype)
    return path


@refused("type class enum")
def boolean_cells(folder):
    return angle_file(folder / "x.h5", ecal=np.ones((4, 3, 3, 3), bool))


@refused("at most 8 bytes")
def long_double_cells(folder):
    return angle_file(folder / "x.h5", ecal=np.ones((4, 3, 3, 3), np.longdouble))


@refused(r"shape \(4, 27\), expected \(events, x, y, z\)")
def cells_of_rank_two(folder):
    return angle_file(folder / "x.h5", ecal=np.ones((4, 27)))


@refused(r"shape \(\), expected")
def scalar_energy(folder):
    return angle_file(folder / "x.h5", energy=np.float32(3))


@refused("shape None")
def energy_without_a_dataspace(folder):
    return angle_file(folder / "x.h5", energy=h5py.Empty("f4"))


@refused("at least one number")
def cells_of_no_extent(folder):
    return angle_file(folder / "x.h5", ecal=np.ones((4, 3, 0, 3)))


@refused("'energy' .* has 3 events, 'ECAL' has 4")
def lengths_that_differ(folder):
    return angle_file(folder / "x.h5", energy=np.ones((3, 1)))


@refused("'theta' .* has 5 events")
def a_label_of_another_length(folder):
    return angle_file(folder / "x.h5", theta=np.ones(5))


@refused(r"'energy' has shape \(4, 2\)")
def energy_with_two_columns(folder):
    return angle_file(folder / "x.h5", energy=np.ones((4, 2)))


@refused(r"'target' has shape \(4, 1\)")
def target_with_one_column(folder):
    return angle_file(folder / "x.h5", energy=False, target=np.ones((4, 1)))


@refused("holds no events")
def no_events(folder):
    return angle_file(folder / "x.h5", ecal=np.ones((0, 3, 3, 3)), energy=np.ones((0, 1)))


@refused(r"has the keys \['voltage'\], expected one of")
def unknown_keys(folder):
    return angle_file(folder / "x.h5", ecal=False, energy=False, voltage=np.ones(3))


@refused("CaloGAN's layout")
def calogan_layout(folder):
    return angle_file(folder / "x.h5", ecal=False, layer_0=np.ones((4, 3, 96)))


@refused(r"unit of 'ECAL' is not stated; say it with unit='GeV' \(--unit GeV\)")
def no_unit(folder):
    return angle_file(folder / "x.h5", units=None)


@refused("states its unit as 'GeV', but unit='MeV'", unit="MeV")
def a_unit_that_contradicts(folder):
    return angle_file(folder / "x.h5")


@refused("'furlong' is not an energy unit", unit="furlong")
def a_unit_that_is_none(folder):
    return angle_file(folder / "x.h5")


@refused("attribute 'units': unit 'eggs'")
def a_unit_attribute_that_is_none(folder):
    return angle_file(folder / "x.h5", units="eggs")


@refused("longer than 64 KiB")
def a_huge_unit_attribute(folder):
    path = folder / "x.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs["units"] = "GeV" * 2**20
        file["ECAL"], file["energy"] = np.ones((4, 3, 3, 3)), np.ones(4)
    return path


@refused("attribute 'units' is .*, expected text")
def a_unit_that_is_a_number(folder):
    return angle_file(folder / "x.h5", units=7)


@refused("event 2 has a cell that is NaN")
def nan_in_a_cell(folder):
    cells = np.ones((4, 3, 3, 3))
    cells[2, 1, 1, 1] = np.nan
    return angle_file(folder / "x.h5", ecal=cells)


@refused("event 3 has a cell that is NaN or infinite")
def infinity_in_a_cell(folder):
    cells = np.ones((4, 3, 3, 3))
    cells[3, 0, 0, 0] = np.inf
    return angle_file(folder / "x.h5", ecal=cells)


@refused("event 1 has a cell of negative energy")
def a_negative_cell(folder):
    cells = np.ones((4, 3, 3, 3))
    cells[1, 0, 0, 0] = -1e-9
    return angle_file(folder / "x.h5", ecal=cells)


@refused("event 0 has an incident energy")
def a_negative_energy(folder):
    return angle_file(folder / "x.h5", energy=np.array([-5.0, 1, 1, 1]))


@refused("theta_rad outside 0 to pi")
def angles_in_degrees(folder):
    return angle_file(folder / "x.h5", theta=np.full(4, 90.0))


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_file_is_refused_at_once_by_name(case, tmp_path):
    make, said, options = CASES[case]
    path = make(tmp_path)
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(ValueError, match=said) as caught, open_showers(path, **options) as file:
            file.read()
        seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert seconds < 1.0, f"took {seconds:.1f} s"
    assert peak < 100 * 2**20, f"took {peak / 2**20:.0f} MiB"


def test_there_are_enough_hostile_files():
    assert len(CASES) >= 46


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path):
    path = valid_file(tmp_path / "x.h5")
    path.chmod(0)
    with pytest.raises(ShowerFileError, match="no permission"):
        open_showers(path)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    content = valid_file(tmp_path / "x.h5").read_bytes()
    for part in range(1, 40):
        (tmp_path / "cut.h5").write_bytes(content[: len(content) * part // 40])
        with pytest.raises(ShowerFileError, match=r"cut\.h5"):
            open_showers(tmp_path / "cut.h5")


def test_a_range_outside_the_file_and_reading_after_close_are_refused(tmp_path):
    with open_showers(valid_file(tmp_path / "x.h5")) as file:
        for start, stop in ((0, 65), (-1, 3), (5, 3)):
            with pytest.raises(ShowerFileError, match="asked for"):
                file.read(start, stop)
    with pytest.raises(ShowerFileError, match="is closed"):
        file.read()
