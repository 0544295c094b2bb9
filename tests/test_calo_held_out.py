"""A generated file knows what its generator was trained on, so that validation never uses those events."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gankernels.calo import ShowerFileError, Showers, load_split, open_showers, simulate_showers, write_showers
from gankernels.calo.held_out import read_held_out, training_attribute

pytest.importorskip("h5py")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Two files that a generator was trained on, in this order."""
    for seed, name in ((1, "a.h5"), (2, "b.h5")):
        write_showers(tmp_path / name, simulate_showers(50, grid=(4, 4, 4), seed=seed))
    return tmp_path / "a.h5", tmp_path / "b.h5"


def generated(folder: Path, attributes: dict[str, str]) -> Path:
    write_showers(folder / "g.h5", simulate_showers(3, grid=(4, 4, 4), seed=9), attributes=dict(attributes))
    return folder / "g.h5"


def record(files: tuple[Path, Path], fraction: float, max_events: int | None = None) -> dict[str, str]:
    described = []
    for path in files:
        with open_showers(path) as file:
            described.append({"sha256": file.checksum(), "events": file.n_events, "name": path.name})
    return training_attribute(described, fraction, max_events)


def read(reference: Path, file: Path, max_events: int | None = None) -> tuple[Showers, bool]:
    with open_showers(reference) as opened:
        return read_held_out(opened, file, max_events)


def test_both_files_give_the_events_that_the_stream_held_out(files: tuple[Path, Path], tmp_path: Path) -> None:
    made = generated(tmp_path, record(files, 0.3))
    parts = [read(path, made) for path in files]
    assert all(trained for _, trained in parts)
    held_out = load_split(list(files), "validation", validation_fraction=0.3)
    assert np.concatenate([p.cells_gev for p, _ in parts]).tobytes() == held_out.cells_gev.tobytes()


def test_events_beyond_the_limit_of_the_training_were_not_seen_either(files: tuple[Path, Path], tmp_path: Path) -> None:
    made = generated(tmp_path, record(files, 0.0, max_events=60))
    showers, _ = read(files[1], made)
    with open_showers(files[1]) as file:
        assert showers.cells_gev.tobytes() == file.read(10, 50).cells_gev.tobytes()


def test_a_file_that_took_no_part_is_read_whole(files: tuple[Path, Path], tmp_path: Path) -> None:
    write_showers(tmp_path / "c.h5", simulate_showers(20, grid=(4, 4, 4), seed=3))
    showers, trained = read(tmp_path / "c.h5", generated(tmp_path, record(files, 0.3)), max_events=15)
    assert (len(showers), trained) == (15, False)


def test_a_generated_file_that_says_nothing_restricts_nothing(files: tuple[Path, Path], tmp_path: Path) -> None:
    showers, trained = read(files[0], generated(tmp_path, {}))
    assert (len(showers), trained) == (50, False)


def test_training_on_everything_leaves_nothing_to_compare_with(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ShowerFileError, match="trained on every event"):
        read(files[0], generated(tmp_path, record(files, 0.0)))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"files": [{}]}', '{"files": [], "validation_fraction": 2, "max_events": null}']
)
def test_a_damaged_record_is_refused(text: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ShowerFileError, match="gankernels_training"):
        read(files[0], generated(tmp_path, {"gankernels_training": text}))
