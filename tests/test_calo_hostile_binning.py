"""CaloChallenge binning files that are wrong by accident or on purpose: each is refused at once, by name."""

from __future__ import annotations

import time

import h5py
import numpy as np
import pytest

from gankernels.calo import ShowerFileError, open_showers, read_binning


def bins(*layers):
    return '<Bins><Bin pid="11" name="electron">' + "".join(layers) + "</Bin></Bins>"


def layer(i, edges="0,1,2,3", n=4):
    return f'<Layer id="{i}" r_edges="{edges}" n_bin_alpha="{n}"/>'


ENTITIES = '<!DOCTYPE b [<!ENTITY a "aaaaaaaaaa"><!ENTITY c "&a;&a;&a;&a;">]>'
ONE_PARTICLE = bins(layer(0)).removeprefix("<Bins>").removesuffix("</Bins>")
WRONG = {
    "another size": (bins(layer(0), layer(1), layer(2)), r"has 24 voxels, the binning has \(3, 4, 3\) = 36"),
    "layers differ": (bins(layer(0), layer(1, "0,1,2", 8)), r"layers 1 \(8 x 2\) have other cells"),
    "a layer is missing": (bins(layer(0), layer(2)), r"layers \[1\] are missing"),
    "a layer has no cells": (bins(layer(0, "0"), layer(1, "0")), "no radial cell"),
    "no layers": (bins(), "0 <Layer>"),
    "too many layers": (bins(*map(layer, range(5000))), "5000 <Layer>"),
    "entities": (ENTITIES + bins(layer("&c;")), "DOCTYPE"),
    "utf-16 hides a doctype": (("<!DOCTYPE b>" + bins(layer(0))).encode("utf-16"), "NUL bytes"),
    "no xml": ("r_edges: 0,1,2", "is not XML"),
    "unknown encoding": ('<?xml version="1.0" encoding="x-none"?>' + bins(layer(0)), "is not XML"),
    "empty": ("", "is not XML"),
    "deeply nested": ("<Bins>" * 50_000 + "</Bins>" * 50_000, "expected <Bins> with one <Bin>"),
    "too large": ("<Bins>" + " " * 2**21 + "</Bins>", "at most 1 MiB"),
    "another root": ("<html/>", "expected <Bins>"),
    "two particles": (f"<Bins>{ONE_PARTICLE}{ONE_PARTICLE}</Bins>", "2 particles"),
    "edges do not increase": (bins(layer(0, "0,2,1")), "expected increasing numbers"),
    "edges are not finite": (bins(layer(0, "0,1,nan")), "expected increasing numbers"),
    "edges are words": (bins(layer(0, "zero,one")), "expected numbers with commas"),
    "negative number of angles": (bins(layer(0, n=-3)), "n_bin_alpha='-3'"),
    "huge number of angles": (bins(layer(0, n="9" * 30)), "expected 1 or more"),
    "huge number of cells": (bins(layer(0, n=2**23), layer(1, n=2**23)), "more than 2\\^24 cells"),
}


def challenge_file(folder, xml=None):
    with h5py.File(folder / "x.h5", "w") as file:
        file["showers"], file["incident_energies"] = np.ones((4, 24)), np.full((4, 1), 1000.0)
    if xml is not None:
        (folder / "binning.xml").write_bytes(xml if isinstance(xml, bytes) else xml.encode())
    return folder / "x.h5"


@pytest.mark.parametrize("case", WRONG)
def test_a_hostile_binning_is_refused_at_once_by_name(case, tmp_path):
    xml, said = WRONG[case]
    path = challenge_file(tmp_path, xml)
    start = time.process_time()
    with pytest.raises(ShowerFileError, match=said) as caught:
        open_showers(path)
    assert time.process_time() - start < 1.0
    assert "\n" not in str(caught.value)


def test_a_binning_in_the_file_is_checked_as_one_beside_it(tmp_path):
    path = challenge_file(tmp_path)
    with h5py.File(path, "a") as file:
        file.attrs["binning_xml"] = ENTITIES + bins(layer(0))
    with pytest.raises(ShowerFileError, match=r"attribute 'binning_xml'.*DOCTYPE"):
        open_showers(path)


def test_a_file_without_a_binning_asks_for_it(tmp_path):
    path = challenge_file(tmp_path)
    with pytest.raises(ShowerFileError, match=r"name the CaloChallenge binning file with binning= \(--binning\)"):
        open_showers(path)
    with pytest.raises(ShowerFileError, match=r"b\.xml: no such file"):
        read_binning(tmp_path / "b.xml")
