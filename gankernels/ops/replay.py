"""Run a function by its kernel calls alone: small networks spend more time in Python than in arithmetic.

The first two calls run the function and record its kernel calls; if the second did the same work on the same arrays as
the first, later calls run that list without Python: on a GPU as one CUDA graph, or as several where `again` puts steps
in Python between the kernels. Inputs are copied to where the recording found its own, random numbers go on counting,
and optimizers are steps in Python: one kernel each over flat parameters, with the learning rate and the count of steps
that hold now. Those steps are steady: on a GPU their kernels are part of the graph, and Python only tells it the new
numbers. Whatever cannot be repeated so is noticed and runs as before: other kernels, arrays or numbers the second
time, arrays filled outside the kernels, values read by Python, other shapes, modes or weights.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gankernels.autograd import Tensor, compute_dtype, is_recording
from gankernels.backends import backend_of, get
from gankernels.backends import recording as capture
from gankernels.ops.conv import conv_algorithm
from gankernels.ops.epilogue import fusion
from gankernels.ops.random import Generator

__all__ = ["Replay", "again", "unrecorded"]

again, unrecorded = capture.again, capture.unrecorded

_MAX_PROGRAMS = 16


class Replay:
    """A function of tensors that is run by its recorded kernel calls from the third call on, with the same results.

    What the function does beside kernels must be the same at every call: it may call networks, losses, `grad`, draw
    random numbers and step optimizers, but not depend on the time, on counters or on files. Reading a tensor (`item`,
    `numpy`, `bool`) is noticed and means that the function always runs itself; a Python number that changes later
    than the second call is not noticed.

    Parameters
    ----------
    function : callable
        function(*inputs) -> Tensor, None, or tuples, lists and dicts of them; they come back outside of any graph. The
        inputs are Tensors and Generators; a Generator has moved on after the call as after the function.
    modules : iterable of Module
        Networks that the function uses: when their mode, attributes, sub-modules or parameters' arrays change, the
        function is recorded anew; with hooks it always runs itself. Values of parameters may change in any way: a
        recording reads them where they are.
    sets_mode : bool
        True says that the function sets the mode of the modules itself: theirs at the call does not matter.
    copy_outputs : bool
        False returns the same tensors at every call, overwritten by the next one.
    max_bytes : int
        A recording keeps the arrays of its calls; functions that need more memory always run themselves.
    beside : Replay, optional
        One that never runs at the same time: both use the same memory, but for what they return.
    constants : iterable of Tensor
        Tensors that seldom change, weights of a trained network mostly: what kernels make of them, weights packed for
        the processor, is made once and kept, with the same results. It takes their memory again for every recording;
        on the CPU, elsewhere nothing is kept. Changes by optimizers, `load_state_dict` and other operations of this
        package are seen by the next call; after writing into the arrays themselves, call `refresh`.

    Attributes
    ----------
    reason : str or None
        Why the last call ran the function itself; None if it was replayed.
    refusal : str or None
        Why calls like the last one always run the function itself, or on a GPU their kernels one by one and not as a
        graph; None if they are replayed, or still recorded.

    Examples
    --------
    >>> import gankernels as gk
    >>> net = gk.nn.Linear(2, 3)
    >>> step = gk.Replay(lambda x: net(x).detach(), [net])
    >>> [step(gk.ones(4, 2)).shape for _ in range(3)]
    [(4, 3), (4, 3), (4, 3)]
    >>> step.reason is None
    True
    """

    def __init__(
        self,
        function: Callable[..., Any],
        modules: Iterable[Any] = (),
        *,
        sets_mode: bool = False,
        copy_outputs: bool = True,
        max_bytes: int = 256 << 20,
        beside: Replay | None = None,
        constants: Iterable[Tensor] = (),
    ) -> None:
        self.function, self.modules = function, list(modules)
        self.sets_mode, self.copy_outputs, self.max_bytes = sets_mode, copy_outputs, max_bytes
        self.constants = list(constants)
        self._memory: dict[str, Any] = {} if beside is None else beside._memory  # by backend
        self._running: Any = threading.Lock() if beside is None else beside._running  # one at a time may use the memory
        self.reason: str | None = "it has not been called"
        self.refusal: str | None = None
        self._programs: dict[Any, _Program] = {}

    def __call__(self, *inputs: Any) -> Any:
        key = (*map(_kind, inputs), conv_algorithm(), compute_dtype(), fusion(), is_recording())
        if capture.active is not None and capture.mine() is not None:
            return self._itself("it is part of another recording", inputs)
        if not self._running.acquire(blocking=False):
            return self._itself("another thread runs it", inputs)
        try:
            program = self._programs.get(key)
            if program is None or not program.fits(inputs):
                if program is None and len(self._programs) >= _MAX_PROGRAMS:
                    return self._itself(
                        f"it was called with {_MAX_PROGRAMS} other combinations of shapes and modes", inputs
                    )
                program = self._programs[key] = _Program(self, inputs)
            if program.refusal is not None:
                self.refusal = program.refusal
                return self._itself(program.refusal, inputs)
            stage = program.stage
            outputs = program.run(self.function, inputs)
            self.reason = program.refusal or stage
            self.refusal = program.refusal or program.graph_refusal()
            return _mapped(_copy, outputs) if self.copy_outputs else outputs
        finally:
            self._running.release()

    def refresh(self) -> None:
        """Forget the recordings, and with them what was made of `constants`."""
        self._programs.clear()

    def _itself(self, reason: str, inputs: Sequence[Any]) -> Any:
        self.reason = reason
        return self.function(*inputs)


class _Program:
    """The recorded calls of one combination of shapes and modes."""

    def __init__(self, replay: Replay, inputs: Sequence[Any]) -> None:
        self.max_bytes, self.memory = replay.max_bytes, replay._memory
        tensors = [t for t in inputs if isinstance(t, Tensor)]
        self.backend = backend_of(tensors[0].data) if tensors else get()
        self.first: capture.Capture | None = None
        self.ready: capture.Capture | None = None
        self.refusal: str | None = None
        self.outputs: Any = None
        if not hasattr(self.backend, "Recording"):
            self.refusal = f"calls of the backend {self.backend.name!r} cannot be recorded"
        elif any(t.requires_grad for t in tensors):
            self.refusal = "an input requires a gradient"
        else:
            self.inputs = [_own(self.backend, given) for given in inputs]
        found = [m for module in replay.modules for m in module.modules()]
        self._modes = [] if replay.sets_mode else [(m, m.training) for m in found]
        self._attributes = [(m, m._changes) for m in found]
        self._hooked = [m for m in found if m._before or m._after]
        if self._hooked:
            self.refusal = f"{type(self._hooked[0]).__name__} has hooks"
        tensors = [t for module in replay.modules for t in (*module.parameters(), *module.buffers())]
        self._arrays = [(t, t.data, t.requires_grad) for t in tensors]
        self._constants = [(t, t.data, t.version) for t in replay.constants]

    @property
    def stage(self) -> str | None:
        """What the next run is, if not a replay."""
        if self.ready is not None:
            return None
        return "it is being recorded" if self.first is None else "it is being recorded a second time"

    def graph_refusal(self) -> str | None:
        """What a backend with graphs says against one of these calls."""
        said = getattr(self.ready.recording, "refusal", None) if self.ready is not None else None
        reason = said() if said is not None else ""
        return f"no graph was made, its kernels are started one by one: {reason}" if reason else None

    def fits(self, inputs: Sequence[Any]) -> bool:
        """Modes, attributes, hooks, arrays, constants and seeds are those of the recording."""
        for m, training in self._modes:
            if m.training is not training:
                return False
        for m, changes in self._attributes:
            if m._changes != changes or ((m._before or m._after) and not self._hooked):
                return False
        for m in self._hooked:
            if not (m._before or m._after):
                return False
        for t, array, wanted in self._arrays:
            if t.data is not array or t.requires_grad is not wanted:
                return False
        for t, array, version in self._constants:
            if t.data is not array or t.version != version:
                return False
        recorded = self.ready or self.first
        if recorded is None:
            return True
        for own, given in zip(self.inputs, inputs, strict=True):
            if type(own) is Generator:
                own.seed = given.seed
        return all(s.seed == seed for s, seed, _, _ in recorded.counters.values())

    def run(self, function: Callable[..., Any], inputs: Sequence[Any]) -> Any:
        for own, given in zip(self.inputs, inputs, strict=True):
            if type(own) is Tensor:
                self.backend.copy(given.data, own.data)
            else:
                own.seed, own.offset = given.seed, given.offset
        try:
            return self._record(function) if self.ready is None else self._replay(self.ready)
        finally:
            for own, given in zip(self.inputs, inputs, strict=True):
                if type(own) is Generator:
                    given.offset = own.offset

    def _replay(self, ready: capture.Capture) -> Any:
        shifts = []
        for stream, seed, first, after in ready.counters.values():
            shifts.append((seed, (stream.offset - first) % 2**64))
            stream.offset += after - first
        begin = 0
        inside: list[tuple[capture.Step, Any]] = []
        for step in filter(lambda step: step.due(), ready.steps):
            if step.calls is not None:
                inside.append((step, step.deferred()))
                continue
            _run(ready.recording, begin, step.at, shifts, inside)
            step.run()
            begin, inside = step.at, []
        _run(ready.recording, begin, len(ready.recording), shifts, inside)
        return self.outputs

    def _record(self, function: Callable[..., Any]) -> Any:
        if self.backend.name not in self.memory:
            self.memory[self.backend.name] = self.backend.Memory()
        this = capture.Capture(self.backend.Recording(self.memory[self.backend.name]))
        with capture.capturing(this):
            outputs = function(*(Tensor(own.data) if type(own) is Tensor else own for own in self.inputs))
            outputs = _mapped(_detached, outputs)
        self.refusal = this.problem or self._not_computed(outputs, this.recording) or self._too_large()
        if self.refusal is None and self.first is not None:
            self.refusal = self.first.difference(this)
            self.ready, self.outputs = this, outputs
            if hasattr(this.recording, "add_constant"):  # where something is made of them
                for _, array, _ in self._constants:
                    this.recording.add_constant(array)
            if hasattr(this.recording, "set_after"):  # where graphs move counters on by themselves
                for _, seed, _, after in this.streams():
                    this.recording.set_after(seed, after)
        self.first = None if self.ready is not None or self.refusal is not None else this
        if self.refusal is not None:
            self.ready = self.outputs = None
            self.memory.pop(self.backend.name)  # recordings that use it keep it
        return outputs

    def _not_computed(self, outputs: Any, recording: Any) -> str | None:
        for t in _tensors(outputs):
            owned = (own.data for own in self.inputs if type(own) is Tensor)
            if not recording.computed(t.data) and not any(t.data is data for data in owned):
                return f"an output of shape {t.shape} was not computed by a kernel"
        return None

    def _too_large(self) -> str | None:
        size = self.memory[self.backend.name].bytes()
        if size <= self.max_bytes:
            return None
        return f"its arrays take {size >> 20} MiB, more than max_bytes={self.max_bytes}; Python's part is small then"


def _run(recording: Any, begin: int, end: int, shifts: Any, inside: Sequence[tuple[capture.Step, Any]]) -> None:
    """The calls from `begin` to before `end`, with those of steps inside; graphs follow where steps do other work."""
    if not inside:
        recording.run(begin, end, shifts)
    elif not recording.run(begin, end, shifts, [(step.at, step.calls, now) for step, now in inside]):
        for step, now in inside:
            step.calls = now


def _kind(given: Any) -> Any:
    """What has to be the same for the next call of a program."""
    if isinstance(given, Tensor):
        return given.data.shape, given.data.dtype.char, given.requires_grad
    if isinstance(given, Generator):
        return None
    raise TypeError(f"Replay: the inputs must be Tensors and Generators, got {type(given).__name__}")


def _own(backend: Any, given: Any) -> Any:
    """What stands for an input in a program."""
    return Tensor(backend.empty(given.shape, given.dtype)) if isinstance(given, Tensor) else Generator()


def _tensors(outputs: Any) -> Iterable[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, (tuple, list)):
        for part in outputs:
            yield from _tensors(part)
    elif isinstance(outputs, dict):
        for part in outputs.values():
            yield from _tensors(part)
    elif outputs is not None:
        raise TypeError(f"Replay: the function returned {type(outputs).__name__}; expected tensors in tuples or dicts")


def _mapped(change: Callable[[Tensor], Tensor], outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        return change(outputs)
    if isinstance(outputs, (tuple, list)):
        return type(outputs)([_mapped(change, part) for part in outputs])
    return {name: _mapped(change, part) for name, part in outputs.items()} if isinstance(outputs, dict) else outputs


def _copy(t: Tensor) -> Tensor:
    backend = backend_of(t.data)
    y = Tensor(backend.empty(t.shape, t.dtype))
    backend.copy(t.data, y.data)
    return y


def _detached(t: Tensor) -> Tensor:
    """Outside the graph, which would keep its arrays."""
    return Tensor(t.data)
