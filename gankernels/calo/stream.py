"""Batches of showers from files of any size: shuffled, split, read ahead in a thread, and resumable to the batch.

Events are numbered through all files. Which side of the split an event is on depends on its number alone. Where the
events fit into `cache_bytes` they are read once and each epoch is one random permutation. Otherwise the files are cut
into blocks that follow their chunks, each epoch permutes the blocks, fills `buffer_bytes` with blocks from anywhere in
the files, and shuffles the events inside the buffer: every block is read once an epoch, and neighbours in a batch come
from all over the data.
"""

from __future__ import annotations

import math
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gankernels.calo.files import ShowerFile, open_showers
from gankernels.calo.guard import ShowerFileError
from gankernels.calo.showers import Showers

__all__ = ["ShowerStream", "load_split", "validation_mask"]

Array = NDArray[Any]
Split = Literal["train", "validation", "all"]

_BLOCK_BYTES = 2**22


def validation_mask(event_numbers: Array, validation_fraction: float) -> Array:
    """Which events (N,) belong to the validation part, from a hash of their number (splitmix64).

    The same event is on the same side whatever the seed, the batch or the number of events.
    """
    with np.errstate(over="ignore"):
        h = event_numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        h ^= h >> np.uint64(31)
    return np.asarray((h >> np.uint64(11)).astype(np.float64) * 2.0**-53 < validation_fraction)


class _Cancelled(Exception):
    """The stream was closed while its thread was reading."""


class _Source:
    """The events of one side of the split, and the order in which an epoch goes through them."""

    def __init__(
        self,
        files: Sequence[ShowerFile],
        split: Split,
        validation_fraction: float,
        max_events: int | None,
        shuffle: bool,
        seed: int,
        cache_bytes: int,
        buffer_bytes: int,
    ) -> None:
        self.files = files
        self.seed = seed
        self.shuffle = shuffle
        self.first = np.cumsum([0, *(f.n_events for f in files)])
        numbers = np.arange(self.first[-1] if max_events is None else min(max_events, self.first[-1]))
        if split != "all":
            validation = validation_mask(numbers, validation_fraction)
            numbers = numbers[validation if split == "validation" else ~validation]
        for i, file in enumerate(files):
            if file.on_bad == "drop":
                numbers = np.setdiff1d(numbers, self.first[i] + file.bad_events(), assume_unique=True)
        self.numbers = numbers
        row_bytes = 4 * math.prod(files[0].grid.shape)
        self.cached = len(numbers) * row_bytes <= cache_bytes
        self.buffer_events = 0 if self.cached else max(1, buffer_bytes // row_bytes)
        # Positions in `numbers` where a new block begins.
        edges = [0, len(numbers)]
        for i, file in enumerate(files):
            step = file.block_events * max(1, _BLOCK_BYTES // (row_bytes * file.block_events))
            starts = np.arange(self.first[i], self.first[i + 1], step)
            edges.extend(np.searchsorted(numbers, starts).tolist())
        self.block_edges = np.unique(edges)
        self._memory: Showers | None = None
        self._lock = threading.Lock()

    def plan(self, epoch: int) -> list[Array]:
        """Positions in `numbers` in the order of delivery, cut where a new buffer is filled."""
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, epoch])))
        if self.cached:
            n = len(self.numbers)
            return [rng.permutation(n) if self.shuffle else np.arange(n)]
        blocks = len(self.block_edges) - 1
        order = rng.permutation(blocks) if self.shuffle else np.arange(blocks)
        buffers: list[list[Array]] = [[]]
        held = 0
        for b in order:
            positions = np.arange(self.block_edges[b], self.block_edges[b + 1])
            if held and held + len(positions) > self.buffer_events:
                buffers.append([])
                held = 0
            buffers[-1].append(positions)
            held += len(positions)
        joined = [np.concatenate(parts) for parts in buffers]
        return [rng.permutation(positions) if self.shuffle else positions for positions in joined]

    def load(self, positions: Array, cancelled: Callable[[], bool]) -> tuple[Showers, Array]:
        """Showers that contain the positions, and the row of each of them."""
        if self.cached:
            with self._lock:
                if self._memory is None:
                    self._memory = self._read(self.numbers, cancelled)
            return self._memory, positions
        ordered = np.sort(positions)
        return self._read(self.numbers[ordered], cancelled), np.searchsorted(ordered, positions)

    def _read(self, numbers: Array, cancelled: Callable[[], bool]) -> Showers:
        """Events by number, increasing, read block by block into arrays made once."""
        n, grid = len(numbers), self.files[0].grid
        out = Showers(
            np.empty((n, *grid.shape), np.float32),
            np.empty(n, np.float32),
            grid,
            {name: np.empty(n, np.float32) for name in self.files[0].condition_names},
        )
        cuts = np.unique(np.searchsorted(numbers, self.numbers[self.block_edges[:-1]]))
        for start, stop in zip(cuts, [*cuts[1:], n], strict=True):
            if cancelled():
                raise _Cancelled
            if start == stop:
                continue
            which = int(np.searchsorted(self.first, numbers[start], side="right")) - 1
            part = self.files[which].read_rows(numbers[start:stop] - self.first[which])
            out.cells_gev[start:stop] = part.cells_gev
            out.energy_gev[start:stop] = part.energy_gev
            for name, values in out.conditions.items():
                values[start:stop] = part.conditions[name]
        return out

    def batches(
        self, epoch: int, cursor: int, batch: int, drop_last: bool, cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[Showers]:
        """The batches of an epoch from number `cursor` on; buffers that lie wholly before it are not read."""
        skip, held, parts = cursor * batch, 0, []
        for positions in self.plan(epoch):
            if skip >= len(positions):
                skip -= len(positions)
                continue
            showers, rows = self.load(positions, cancelled)
            at, skip = skip, 0
            while at < len(rows):
                part = showers[rows[at : at + batch - held]]
                parts.append(part)
                held += len(part)
                at += len(part)
                if held == batch:
                    yield _joined(parts)
                    held, parts = 0, []
        if parts and not drop_last:
            yield _joined(parts)


class ShowerStream:
    """Endless batches of showers.

    Parameters
    ----------
    files : path, ShowerFile, or a sequence of them
        All on the same grid with the same conditions. Files given as paths are opened and closed by the stream.
    batch : int
        Events in a batch.
    seed : int
        The order of the events is a function of seed and epoch.
    split : "train", "validation" or "all"
    validation_fraction : float
        Part of the events (0 to below 1) kept for "validation", see `validation_mask`.
    drop_last : bool
        Leave out the last, smaller batch of an epoch.
    prefetch : int
        Batches that a thread reads ahead; 0 reads in the caller.
    shuffle : bool
    max_events : int, optional
        Use only the first so many events of the files, both sides of the split together.
    cache_bytes, buffer_bytes : int
        Up to the first size all events are kept in memory; otherwise the second is the size of the shuffle buffer.

    Attributes
    ----------
    epoch : int
        Epoch of the next batch, from 0.
    steps_per_epoch, n_events : int
    grid : Grid
    condition_names : tuple of str

    Raises
    ------
    ValueError
        If an argument is out of range, a file is given twice, or the split has fewer events than one batch (with
        drop_last).
    ShowerFileError
        If a file cannot be used, here or while reading; grids or conditions differ.

    Examples
    --------
    >>> with ShowerStream("train.h5", batch=32, seed=1) as stream:  # doctest: +SKIP
    ...     for showers in stream: ...
    """

    def __init__(
        self,
        files: str | os.PathLike[str] | ShowerFile | Sequence[str | os.PathLike[str] | ShowerFile],
        batch: int,
        seed: int,
        *,
        split: Split = "train",
        validation_fraction: float = 0.1,
        drop_last: bool = True,
        prefetch: int = 2,
        shuffle: bool = True,
        max_events: int | None = None,
        cache_bytes: int = 2**31,
        buffer_bytes: int = 2**28,
    ) -> None:
        self._worker: threading.Thread | None = None
        self._stop = threading.Event()
        self._owned: list[ShowerFile] = []
        if split not in ("train", "validation", "all"):
            raise ValueError(f"ShowerStream: split {split!r}, expected 'train', 'validation' or 'all'")
        if not 0.0 <= validation_fraction < 1.0:
            raise ValueError(f"ShowerStream: validation_fraction={validation_fraction}, expected 0 to below 1")
        if batch < 1 or seed < 0 or prefetch < 0 or (max_events is not None and max_events < 1):
            raise ValueError(
                f"ShowerStream: expected batch >= 1, seed >= 0, prefetch >= 0, max_events >= 1; got {batch}, {seed}, "
                f"{prefetch}, {max_events}"
            )
        given = [files] if isinstance(files, str | os.PathLike | ShowerFile) else list(files)
        try:
            opened = self._open(given)
            self._source = _Source(
                opened, split, validation_fraction, max_events, shuffle, seed, cache_bytes, buffer_bytes
            )
            self.batch = batch
            self.grid = opened[0].grid
            self.condition_names = opened[0].condition_names
            self.n_events = len(self._source.numbers)
            self.steps_per_epoch = self.n_events // batch if drop_last else -(-self.n_events // batch)
            if self.steps_per_epoch == 0:
                raise ValueError(
                    f"ShowerStream: the {split} part has {self.n_events} events of {self._source.first[-1]}, "
                    f"expected at least one batch of {batch}"
                )
        except BaseException:
            self._close_owned()
            raise
        self._drop_last = drop_last
        self._prefetch = prefetch
        self._position = (0, 0)
        self._queue: queue.Queue[Any] = queue.Queue(max(1, prefetch))
        self._inline: Iterator[Showers] | None = None
        # What the order of the batches depends on: a state of another stream is refused.
        self._identity = {
            "batch": batch,
            "seed": seed,
            "split": split,
            "validation_fraction": validation_fraction,
            "shuffle": shuffle,
            "drop_last": drop_last,
            "events": self.n_events,
            "events_of_files": [f.n_events for f in opened],
            "buffer_events": self._source.buffer_events,
        }

    @property
    def epoch(self) -> int:
        """Epoch of the next batch, from 0."""
        return self._position[0]

    @property
    def event_numbers(self) -> Array:
        """Numbers of the events of this side of the split, counted through all files (n_events,), int64."""
        numbers: Array = self._source.numbers.copy()
        return numbers

    def __iter__(self) -> ShowerStream:
        return self

    def __next__(self) -> Showers:
        showers = self._take() if self._prefetch else self._read_inline()
        epoch, cursor = self._position
        self._position = (epoch, cursor + 1) if cursor + 1 < self.steps_per_epoch else (epoch + 1, 0)
        return showers

    def one_pass(self) -> Iterator[Showers]:
        """Every event of this side once, in the order of epoch 0, without moving the stream."""
        return self._source.batches(0, 0, self.batch, drop_last=False)

    def state(self) -> dict[str, Any]:
        """Where the stream stands, as a dict that JSON can hold; batches read ahead are not counted."""
        return {"epoch": self._position[0], "cursor": self._position[1], **self._identity}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state` was taken.

        Raises
        ------
        ValueError
            If the state is of a stream with other files or settings, named in the message.
        """
        for name, value in self._identity.items():
            if state.get(name) != value:
                raise ValueError(f"ShowerStream: the state has {name}={state.get(name)!r}, this stream has {value!r}")
        epoch, cursor = state.get("epoch"), state.get("cursor")
        if not (isinstance(epoch, int) and epoch >= 0 and isinstance(cursor, int)):
            raise ValueError(f"ShowerStream: the state has epoch={epoch!r}, cursor={cursor!r}, expected whole numbers")
        if not 0 <= cursor < self.steps_per_epoch:
            raise ValueError(f"ShowerStream: the state has cursor={cursor}, an epoch has {self.steps_per_epoch} steps")
        self._stop_worker()
        self._inline = None
        self._position = (epoch, cursor)

    def close(self) -> None:
        """Stop the thread and close the files that the stream opened; may be called twice."""
        self._stop_worker()
        self._close_owned()

    def __enter__(self) -> ShowerStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if "_owned" not in self.__dict__:  # __init__ was called with wrong arguments
            return
        # While the interpreter ends its daemon threads stand still: waiting for one would never end.
        if sys.is_finalizing():
            self._stop.set()
        else:
            self.close()

    def _open(self, given: Sequence[str | os.PathLike[str] | ShowerFile]) -> list[ShowerFile]:
        if not given:
            raise ValueError("ShowerStream: expected at least one file, got none")
        opened = []
        for item in given:
            if isinstance(item, ShowerFile):
                opened.append(item)
            else:
                self._owned.append(open_showers(item))
                opened.append(self._owned[-1])
        first = opened[0]
        for i, file in enumerate(opened[1:], 1):
            if (before := next((f for f in opened[:i] if _same_file(f.path, file.path)), None)) is not None:
                raise ValueError(f"ShowerStream: {file.path} is the same file as {before.path}; give every file once")
            if file.grid.shape != first.grid.shape or file.grid.axes != first.grid.axes:
                raise ShowerFileError(f"{file.path}: grid {file.grid.shape}, {first.path} has {first.grid.shape}")
            if file.condition_names != first.condition_names:
                raise ShowerFileError(
                    f"{file.path}: conditions {file.condition_names}, {first.path} has {first.condition_names}"
                )
        return opened

    def _read_inline(self) -> Showers:
        if self._inline is None:
            self._inline = self._source.batches(*self._position, self.batch, self._drop_last)
        showers = next(self._inline)
        if self._position[1] + 1 == self.steps_per_epoch:
            self._inline = None
        return showers

    def _take(self) -> Showers:
        if self._worker is None:
            self._stop = threading.Event()
            self._queue = queue.Queue(self._prefetch)
            settings = (self._source, self._stop, self._queue, self._position, self.batch, self._drop_last)
            self._worker = threading.Thread(target=_produce, args=settings, name="ShowerStream", daemon=True)
            self._worker.start()
        item = self._queue.get()
        if isinstance(item, BaseException):
            self._stop_worker()
            raise item
        assert isinstance(item, Showers)
        return item

    def _stop_worker(self) -> None:
        if self._worker is not None:
            self._stop.set()
            self._worker.join()
            self._worker = None

    def _close_owned(self) -> None:
        for file in self._owned:
            file.close()


def _produce(
    source: _Source,
    stop: threading.Event,
    out: queue.Queue[Any],
    position: tuple[int, int],
    batch: int,
    drop_last: bool,
) -> None:
    """The reading thread: batches, or the error that ended it. It holds no reference to the stream."""
    epoch, cursor = position
    try:
        while True:
            for showers in source.batches(epoch, cursor, batch, drop_last, stop.is_set):
                if not _offer(out, showers, stop):
                    return
            epoch, cursor = epoch + 1, 0
    except _Cancelled:
        return
    except BaseException as error:
        _offer(out, error, stop)


def _offer(out: queue.Queue[Any], item: Any, stop: threading.Event) -> bool:
    """Put an item as soon as there is room; False if the stream was closed first."""
    while not stop.is_set():
        try:
            out.put(item, timeout=0.05)
        except queue.Full:
            continue
        return True
    return False


def _same_file(a: Path, b: Path) -> bool:
    try:
        return a.samefile(b)
    except OSError:  # removed after it was opened
        return a == b


def _joined(parts: list[Showers]) -> Showers:
    if len(parts) == 1:
        return parts[0]
    return Showers(
        np.concatenate([p.cells_gev for p in parts]),
        np.concatenate([p.energy_gev for p in parts]),
        parts[0].grid,
        {name: np.concatenate([p.conditions[name] for p in parts]) for name in parts[0].conditions},
    )


def load_split(
    files: str | os.PathLike[str] | ShowerFile | Sequence[str | os.PathLike[str] | ShowerFile],
    split: Split = "validation",
    *,
    validation_fraction: float = 0.1,
    max_events: int | None = None,
) -> Showers:
    """All events of one side of the split in memory, in the order of the files; parameters as `ShowerStream`."""
    settings: dict[str, Any] = {"validation_fraction": validation_fraction, "max_events": max_events}
    with ShowerStream(files, 256, 0, split=split, drop_last=False, shuffle=False, prefetch=0, **settings) as stream:
        return _joined(list(stream.one_pass()))
