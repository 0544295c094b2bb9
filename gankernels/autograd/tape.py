"""Reverse mode by a tape: a Tensor knows the Node that made it, a Node knows its inputs and its rule.

A rule is written with the same public operations, so the gradient of a gradient is a gradient: the tape is closed
under differentiation (as in HIPS/autograd and JAX). Only nodes on a path to a requested input are visited.
This file imports nothing of ours; `gankernels.ops.methods` gives Tensor its operators.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

__all__ = [
    "Node",
    "Tensor",
    "compute_dtype",
    "computing",
    "enable_grad",
    "grad",
    "is_differentiating",
    "is_recording",
    "no_grad",
    "pull_back",
    "record",
    "recording",
]

_FLOATS = "fV"  # kinds of dtypes that hold fractions; V: bfloat16, which NumPy does not know

_state = threading.local()


def is_recording() -> bool:
    """True if operations on tensors that require a gradient are recorded in this thread."""
    return getattr(_state, "recording", True)


def is_differentiating() -> bool:
    """True while gradients are pulled back in this thread: what is computed then is (part of) a gradient."""
    return getattr(_state, "differentiating", False)


@contextmanager
def recording(on: bool) -> Iterator[None]:
    """Record operations, or not, in this thread until the block ends."""
    before = is_recording()
    _state.recording = on
    try:
        yield
    finally:
        _state.recording = before


def compute_dtype() -> str | None:
    """The dtype in which products of float32 tensors are computed in this thread; None: float32."""
    return getattr(_state, "compute", None)


@contextmanager
def computing(dtype: str | None) -> Iterator[None]:
    """Compute products in that dtype in this thread until the block ends; what is recorded keeps it for gradients."""
    before = compute_dtype()
    _state.compute = dtype
    try:
        yield
    finally:
        _state.compute = before


@contextmanager
def _differentiating() -> Iterator[None]:
    before = is_differentiating()
    _state.differentiating = True
    try:
        yield
    finally:
        _state.differentiating = before


class _Switch:
    """Context manager and decorator that sets whether operations are recorded."""

    on: ClassVar[bool]

    def __enter__(self) -> None:
        _state.__dict__.setdefault("before", []).append(is_recording())  # a stack: one object may be entered twice
        _state.recording = self.on

    def __exit__(self, *_: object) -> None:
        _state.recording = _state.before.pop()

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorate a function."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with recording(self.on):
                return function(*args, **kwargs)

        wrapped.__name__, wrapped.__doc__ = function.__name__, function.__doc__
        return wrapped


class no_grad(_Switch):
    """Context manager and decorator: nothing inside is recorded."""

    on = False


class enable_grad(_Switch):
    """Context manager and decorator: operations inside are recorded, also within no_grad."""

    on = True


class Node:
    """One recorded operation. `rule(ct, want)` gives a cotangent or None per input; ct is a tuple if outputs > 1."""

    __slots__ = ("compute", "inputs", "kept", "op", "outputs", "rule", "versions")

    def __init__(self, op: str, inputs: tuple[Tensor, ...], rule: Callable[..., Any], outputs: int, kept: Any) -> None:
        self.op = op
        self.inputs = inputs
        self.rule: Callable[..., Any] | None = rule  # None once released
        self.outputs = outputs
        self.kept = kept  # the output's array, for rules of (x, y): keeping the Tensor itself would make a cycle
        self.versions = tuple(t.version for t in inputs)
        self.compute = compute_dtype()  # of the gradients too, wherever they are pulled back

    def output(self) -> Any:
        """The kept output(s) as tensors of this node."""
        several = isinstance(self.kept, tuple)
        tensors = tuple(_attach(Tensor(d), self, i) for i, d in enumerate(self.kept if several else (self.kept,)))
        return tensors if several else tensors[0]

    def release(self) -> None:
        """Let go of the arrays that the rule needs: nothing can be pulled back through this node any more."""
        self.rule, self.inputs, self.versions, self.kept = None, (), (), None


def _attach(t: Tensor, node: Node, index: int) -> Tensor:
    t.requires_grad, t.node, t.index = True, node, index
    return t


class Tensor:
    """An array of a backend and the place where it came from.

    Parameters
    ----------
    data : array
        float32 or float64 to take part in differentiation; int64 and bool serve as indices and masks.
    requires_grad : bool
        Record what is done with it.
    """

    __slots__ = ("__weakref__", "data", "grad", "index", "node", "requires_grad", "version")
    __array_priority__ = 1000.0  # numpy_array + tensor calls Tensor.__radd__
    __hash__ = object.__hash__

    data: Any
    grad: Tensor | None
    node: Node | None

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        if requires_grad and data.dtype.kind not in _FLOATS:
            raise TypeError(f"tensor: only floating-point tensors can require gradients, got dtype {data.dtype}")
        self.data = data
        self.requires_grad = requires_grad
        self.grad = None
        self.node = None
        self.index = 0
        self.version = 0  # counts in-place changes, so that a stale graph is noticed

    if TYPE_CHECKING:  # installed by gankernels.ops.methods

        def __getattr__(self, name: str) -> Any: ...
        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __pow__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __getitem__(self, key: Any) -> Tensor: ...
        def __lt__(self, other: Any) -> Tensor: ...
        def __le__(self, other: Any) -> Tensor: ...
        def __gt__(self, other: Any) -> Tensor: ...
        def __ge__(self, other: Any) -> Tensor: ...
        def __float__(self) -> float: ...
        def __len__(self) -> int: ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents, as a tuple."""
        return tuple(self.data.shape)

    @property
    def dtype(self) -> Any:
        """NumPy dtype."""
        return self.data.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return int(self.data.ndim)

    @property
    def is_leaf(self) -> bool:
        """True if no recorded operation made it."""
        return self.node is None

    def backward(self, gradient: Tensor | None = None, create_graph: bool = False, retain_graph: bool = True) -> None:
        """Add d<gradient, self>/d leaf to `.grad` of every leaf that requires a gradient.

        Parameters
        ----------
        gradient : Tensor, optional
            Cotangent of self's shape and dtype; may be left out for a tensor of one element.
        create_graph : bool
            Record the backward pass, so that `.grad` can be differentiated again.
        retain_graph : bool
            False gives the memory of every operation back as soon as its gradient is known, so that less is needed at
            a time; the graph cannot be used again.

        Raises
        ------
        ValueError
            If create_graph is True and retain_graph False: the recorded backward pass needs the graph.
        RuntimeError
            If self does not require a gradient, a tensor in its graph was changed in place since, or (part of) the
            graph was released by an earlier call with retain_graph=False.
        """
        if not self.requires_grad:
            raise RuntimeError("backward: the tensor does not require a gradient")
        leaves = [t for t in _leaves(self) if t.requires_grad]
        found = pull_back([self], leaves, [gradient], create_graph, retain_graph)
        given = {id(gradient)}
        for leaf, ct in zip(leaves, found, strict=True):
            if ct is None:
                continue
            with recording(create_graph):
                if leaf.grad is not None:
                    leaf.grad = leaf.grad + ct
                else:  # memory of its own: `.grad` may be changed in place
                    shared = id(ct) in given or isinstance(getattr(ct.data, "base", None), type(ct.data))
                    leaf.grad = ct.clone() if shared else ct
            given.add(id(ct))


def record(op: str, data: Any, inputs: tuple[Tensor, ...], rule: Callable[..., Any], keep_output: bool = False) -> Any:
    """Wrap the result(s) of a kernel and note how to pull a cotangent back.

    Parameters
    ----------
    data : array or tuple of arrays
        What the kernel wrote; a tuple gives a tuple of tensors.
    rule : callable
        rule(ct, want) -> sequence of Tensor or None, one per input; want says which are needed. With keep_output it
        is called as rule(ct, want, y).
    """
    several = isinstance(data, tuple)
    tensors = tuple(Tensor(d) for d in data) if several else (Tensor(data),)
    if is_recording() and any(t.requires_grad for t in inputs):
        node = Node(op, inputs, rule, len(tensors), data if keep_output else None)
        for i, t in enumerate(tensors):
            _attach(t, node, i)
    return tensors if several else tensors[0]


def _nodes_in_order(roots: Sequence[Node]) -> list[Node]:
    """Every node above the roots, consumers before producers."""
    order: list[Node] = []
    seen: set[int] = set()
    stack: list[tuple[Node, bool]] = [(n, False) for n in roots]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
            continue
        if id(node) in seen:
            continue
        seen.add(id(node))
        stack.append((node, True))
        stack += [(t.node, False) for t in node.inputs if t.node is not None]
    return order[::-1]


def _leaves(output: Tensor) -> list[Tensor]:
    if output.node is None:
        return [output]
    found: dict[int, Tensor] = {}
    for node in _nodes_in_order([output.node]):
        for t in node.inputs:
            if t.node is None:
                found[id(t)] = t
    return list(found.values())


def _key(t: Tensor) -> tuple[int, int]:
    return (id(t), -1) if t.node is None else (id(t.node), t.index)


def _seed(output: Tensor, ct: Tensor | None) -> Tensor:
    if ct is None:
        if output.data.size != 1:
            raise RuntimeError(
                f"backward: an output of shape {output.shape} needs a gradient; only one element may go without"
            )
        one: Tensor = output.new_ones(output.shape)
        return one
    if not isinstance(ct, Tensor):
        raise TypeError(f"backward: the gradient must be a Tensor, got {type(ct).__name__}")
    if ct.shape != output.shape or ct.dtype != output.dtype:
        raise ValueError(
            f"backward: the gradient has shape {ct.shape} and dtype {ct.dtype}, "
            f"the output {output.shape} and {output.dtype}"
        )
    if type(ct.data) is not type(output.data):
        raise RuntimeError(f"backward: the gradient is on {ct.device!r}, the output on {output.device!r}")
    return ct


def pull_back(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
    create_graph: bool,
    retain_graph: bool,
) -> list[Tensor | None]:
    """d<cotangents, outputs>/d input for every input; None where no path leads there."""
    if create_graph and not retain_graph:
        raise ValueError("grad: create_graph=True needs the graph again; retain_graph must not be False")
    targets = {_key(t) for t in inputs}
    order = _nodes_in_order([t.node for t in outputs if t.node is not None])
    leads: dict[int, bool] = {}
    for node in reversed(order):
        if node.rule is None:
            raise RuntimeError(f"backward: {node.op} was released by an earlier call with retain_graph=False")
        leads[id(node)] = any(_key(t) in targets or (t.node is not None and leads[id(t.node)]) for t in node.inputs)

    cts: dict[tuple[int, int], Tensor] = {}

    def add(key: tuple[int, int], ct: Tensor) -> None:
        cts[key] = cts[key] + ct if key in cts else ct

    with recording(create_graph), _differentiating(), computing(compute_dtype()):
        for output, cotangent in zip(outputs, cotangents, strict=True):
            add(_key(output), _seed(output, cotangent))
        for node in order:
            if not leads[id(node)]:
                continue
            keys = [(id(node), i) for i in range(node.outputs)]
            node_cts = tuple(cts.get(k) if k in targets else cts.pop(k, None) for k in keys)
            if all(ct is None for ct in node_cts):
                continue
            if tuple(t.version for t in node.inputs) != node.versions:
                raise RuntimeError(f"backward: an input of {node.op} was changed in place after {node.op} used it")
            want = [_key(t) in targets or (t.node is not None and leads[id(t.node)]) for t in node.inputs]
            kept = () if node.kept is None else (node.output(),)
            _state.compute = node.compute
            assert node.rule is not None
            found = node.rule(node_cts[0] if node.outputs == 1 else node_cts, want, *kept)
            for t, wanted, ct in zip(node.inputs, want, found, strict=True):
                if wanted and ct is not None:
                    # a rule may compute in more digits than its input has
                    add(_key(t), ct if ct.data.dtype is t.data.dtype else ct.to(t.dtype))
            if not retain_graph:
                node.release()  # `order` keeps the node itself: keys go by its id
            del t, ct, node_cts, kept, found  # so that their arrays do not live through the next rule
    return [cts.get(_key(t)) for t in inputs]


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
    retain_graph: bool = True,
) -> tuple[Tensor, ...]:
    """Gradients of the outputs with respect to the inputs; nothing is added to `.grad`.

    Parameters
    ----------
    outputs, inputs : Tensor or sequence of Tensor
    grad_outputs : Tensor or sequence, optional
        Cotangents of the outputs' shapes; may be left out for outputs of one element.
    create_graph : bool
        Record the computation, so that the result can be differentiated again (gradient penalties).
    allow_unused : bool
        Give None for an input that the outputs do not depend on, instead of raising.
    retain_graph : bool
        False gives the memory of every operation back as soon as its gradient is known, so that less is needed at a
        time; the graph cannot be used again.

    Returns
    -------
    tuple of Tensor
        One per input, of its shape.

    Raises
    ------
    ValueError
        If create_graph is True and retain_graph False: the recorded computation needs the graph.
    RuntimeError
        If an output requires no gradient, an input is not part of the graph and allow_unused is False, or (part of) the
        graph was released by an earlier call with retain_graph=False.

    Examples
    --------
    >>> import gankernels as gk
    >>> x = gk.tensor([3.0], requires_grad=True)
    >>> (dx,) = gk.grad(x * x * x, x, create_graph=True)
    >>> gk.grad(dx, x)[0].item()
    18.0
    """
    output_list = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    input_list = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    for role, given in (("output", output_list), ("input", input_list)):
        for i, t in enumerate(given):
            if not isinstance(t, Tensor):
                raise TypeError(f"grad: {role} {i} must be a Tensor, got {type(t).__name__}")
    cotangents: list[Tensor | None]
    if grad_outputs is None:
        cotangents = [None] * len(output_list)
    else:
        cotangents = [grad_outputs] if isinstance(grad_outputs, Tensor) else list(grad_outputs)
    if len(cotangents) != len(output_list):
        raise ValueError(f"grad: {len(output_list)} outputs but {len(cotangents)} grad_outputs")
    for role, tensors in (("output", output_list), ("input", input_list)):
        for i, t in enumerate(tensors):
            if not t.requires_grad:
                raise RuntimeError(f"grad: {role} {i} (shape {t.shape}) does not require a gradient")
    results = pull_back(output_list, input_list, cotangents, create_graph, retain_graph)
    if not allow_unused and None in [None if r is None else 0 for r in results]:
        i = next(i for i, r in enumerate(results) if r is None)
        raise RuntimeError(f"grad: the outputs do not depend on input {i}; allow_unused=True gives None for it")
    return tuple(results)  # type: ignore[arg-type]
