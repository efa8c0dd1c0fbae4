"""Inputs and states of an ONNX file: their sizes, and which output is the new value of a state."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from .._errors import ModelFileError, invalid
from .evaluate import LARGEST
from .folded import Typed, Value
from .folding import dtype_of
from .model_file import ModelFile

Size = int | str  # of an axis: a number, or the name that the file gives it, "input[1]" where it gives none
States = Mapping[str, str | None]

_BATCH = re.compile(r"(?i)batch|^(n|b|bs)$")
_LENGTH = re.compile(r"(?i)(^|[^a-z])(len|lens|length|lengths|seq_?lens?|(num|n)_(steps|frames))($|[^a-z])")
_BEFORE = {"in", "input", "prev", "previous", "old", "last", "init", "initial", "0"}
_AFTER = {"out", "output", "new", "next", "n", "updated", "cur", "current", "final"}


@dataclass(frozen=True)
class Port:
    """An input of the file: its name, type and sizes."""

    name: str
    dtype: np.dtype
    sizes: tuple[Size, ...]

    @classmethod
    def of(cls, proto: onnx.ValueInfoProto) -> Port:
        """Raises `ModelFileError` for what is no tensor of some number of axes."""
        tensor = proto.type.tensor_type
        if not proto.type.HasField("tensor_type") or not tensor.HasField("shape"):
            raise ModelFileError(f"{proto.name!r}: expected a tensor of some number of axes")
        sizes: list[Size] = []
        for axis, dim in enumerate(tensor.shape.dim):
            named = dim.dim_param or (f"{proto.name}[{axis}]" if dim.dim_value < 1 else "")
            sizes.append(named or dim.dim_value)
        return cls(proto.name, dtype_of(proto), tuple(sizes))

    def type(self, known: Mapping[str, int]) -> Typed:
        """With the sizes of axes that have names, 1 for those that are not `known`."""
        sizes = (known.get(self.key(d), n if isinstance(n, int) else 1) for d, n in enumerate(self.sizes))
        shape = tuple(sizes)
        if math.prod(shape) > LARGEST:
            raise invalid(f"shape of {self.name!r}", got=str(shape), expected=f"at most {LARGEST} numbers")
        return Typed(self.dtype, shape)

    def key(self, axis: int) -> str:
        """What the size of an axis is called, also where the file fixes it."""
        size = self.sizes[axis]
        return size if isinstance(size, str) else f"{self.name}[{axis}]"

    def is_batch(self, axis: int) -> bool:
        """Whether an axis without a fixed size is called like that of a batch, or has no name and is the first.

        That of tf2onnx is no name, as unk__6.
        """
        key = self.key(axis)
        if key == f"{self.name}[{axis}]" or key.startswith("unk__"):
            return axis == 0 and len(self.sizes) > 1
        return bool(_BATCH.search(key))

    def renamed(self, names: Mapping[str, str]) -> Port:
        """With other names of sizes that are open."""
        return replace(self, sizes=tuple(names.get(n, n) if isinstance(n, str) else n for n in self.sizes))

    @property
    def open(self) -> list[str]:
        """The names of sizes that the file leaves open."""
        return [n for n in self.sizes if isinstance(n, str)]


@dataclass(frozen=True)
class State:
    """A state: an input, and the output that is its new value; None where a sequence never changes it."""

    port: Port
    output: str | None

    @property
    def name(self) -> str:
        return self.port.name


@dataclass(frozen=True)
class Ports:
    """What an engine is given each step, its states, what is bound to constants, and what is read for its shape.

    `lengths` are inputs that are the number of steps of each call.
    """

    inputs: list[Port]
    states: list[State]
    constants: dict[str, np.ndarray]
    shapes: list[Port] = field(default_factory=list)
    tokens: tuple[str, ...] = ()  # names of inputs that are token ids, whatever type the file gives them
    lengths: list[Port] = field(default_factory=list)

    def values(self, known: Mapping[str, int], steps: int = 1) -> dict[str, Value]:
        """The types of inputs and states for sizes by name, the constants, and the lengths of `steps` steps."""
        ports = [*self.inputs, *(s.port for s in self.states), *self.shapes]
        return {**{p.name: p.type(known) for p in ports}, **self.bound(known, steps)}

    def renamed(self, names: Mapping[str, str]) -> Ports:
        """With other names of sizes that are open."""
        inputs, shapes, lengths = (
            [p.renamed(names) for p in some] for some in (self.inputs, self.shapes, self.lengths)
        )
        states = [replace(s, port=s.port.renamed(names)) for s in self.states]
        return replace(self, inputs=inputs, states=states, shapes=shapes, lengths=lengths)

    def bound(self, known: Mapping[str, int], steps: int) -> dict[str, np.ndarray]:
        """The inputs that no caller gives: constants, and lengths of `steps` steps."""
        types = {p.name: p.type(known) for p in self.lengths}
        return {**self.constants, **{name: np.full(t.shape, steps, t.dtype) for name, t in types.items()}}


def read_ports(
    file: ModelFile,
    constants: Mapping[str, object] | None,
    states: States | None,
    *,
    data: Collection[str] = (),
    tokens: Collection[str] = (),
    lengths: Collection[str] | None = None,
) -> Ports:
    """The inputs of a file, of which some are bound to constants and some are states.

    Of those called `data` or `tokens` none is a state by its name or shape.

    Without `states` an input is one where an output of the same shape has its name and "N", "_out" or the like; or
    where, in a file whose sizes are fixed, it is not the first input and only one other output has its shape.

    Raises:
        ValueError: there is no such input or output, or a constant does not fit.
    """
    ports = [Port.of(v) for v in file.input_protos()]
    outputs = {v.name: v for v in file.graph.output}
    bound = {}
    for name, value in (constants or {}).items():
        port = next((p for p in ports if p.name == name), None)
        if port is None:
            raise invalid("constants", got=repr(name), expected=_list("an input of the file", [p.name for p in ports]))
        bound[name] = _constant(port, value)
    counts = _lengths(ports, bound, lengths, {*data, *tokens, *(states or {})})
    free = [p for p in ports if p.name not in bound and p not in counts]
    if states is None:
        news = [Port.of(v) for v in outputs.values() if v.type.tensor_type.HasField("shape")]
        pairs = _found(free, news, {*data, *tokens})
        if len(pairs) == len(free) and pairs:
            raise invalid(
                "states",
                got="inputs that all look like states",
                expected="at least one input that a caller gives each step",
                hint=f"states={pairs} less what is no state",
            )
    else:
        pairs = _checked(states, free, list(outputs))
    found = [State(p, pairs[p.name]) for p in free if p.name in pairs]
    inputs = [p for p in free if p.name not in pairs]
    if isinstance(tokens, str):
        raise invalid("tokens", got=repr(tokens), expected=f"a list of names, such as [{tokens!r}]")
    if not inputs:
        raise invalid("inputs of the file", got="none but states and constants", expected="at least one")
    for name in tokens:
        if name not in {p.name for p in inputs}:
            expected = _list("an input that is no state and no constant", [p.name for p in inputs])
            raise invalid("tokens", got=repr(name), expected=expected)
    return Ports(inputs, found, bound, tokens=tuple(tokens), lengths=counts)


def may_be_states(file: ModelFile, ports: Ports) -> bool:
    """Whether an input beside the first has the shape of an output, so that it may be a state under another name."""
    news = [Port.of(v) for v in file.graph.output if v.type.tensor_type.HasField("shape")]
    return any(p.dtype.kind == "f" and _same_shape(p, o) for p in ports.inputs[1:] for o in news)


def _lengths(
    ports: list[Port], bound: Collection[str], given: Collection[str] | None, others: Collection[str]
) -> list[Port]:
    """Inputs that are numbers of steps: those named, else whole numbers with one entry a sequence and such a name."""
    if isinstance(given, str):
        raise invalid("lengths", got=repr(given), expected=f"a list of names, such as [{given!r}]")
    if given is None:
        return [
            p for p in ports if p.name not in {*bound, *others} and _is_count(p) and _LENGTH.search(p.name) is not None
        ]
    for name in given:
        if name not in {p.name for p in ports if _is_count(p)}:
            expected = "an input of whole numbers, one a sequence: of shape (), (1,) or (batch,)"
            raise invalid("lengths", got=repr(name), expected=expected)
        if name in {*bound, *others}:
            raise invalid("lengths", got=repr(name), expected="an input that is nothing else")
    return [p for p in ports if p.name in given]


def _is_count(port: Port) -> bool:
    batch = len(port.sizes) == 1 and (port.sizes[0] == 1 or isinstance(port.sizes[0], str))
    return port.dtype.kind in "iu" and (not port.sizes or batch)


def _constant(port: Port, value: object) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise invalid(f"constants[{port.name!r}]", got=repr(value), expected="a number or an array of numbers")
    if array.ndim != len(port.sizes) and array.size == 1:
        array = array.reshape([1] * len(port.sizes))
    pairs = zip(port.sizes, array.shape, strict=False)
    if array.ndim != len(port.sizes) or not all(isinstance(n, str) or n == m for n, m in pairs):
        raise invalid(f"constants[{port.name!r}]", got=f"shape {array.shape}", expected=str(port.sizes))
    return array.astype(port.dtype)


def _checked(states: States, ports: list[Port], outputs: list[str]) -> dict[str, str | None]:
    if not isinstance(states, Mapping):
        raise invalid("states", got=repr(states), expected="outputs by inputs, such as {'state': 'stateN'}")
    for name, output in states.items():
        if name not in {p.name for p in ports}:
            raise invalid("states", got=repr(name), expected=_list("an input of the file", [p.name for p in ports]))
        if output is not None and output not in outputs:
            expected = _list("an output of the file, or None for a state that nothing changes", outputs)
            raise invalid(f"states[{name!r}]", got=repr(output), expected=expected)
    if len({o for o in states.values() if o}) < len([o for o in states.values() if o]):
        raise invalid("states", got="one output for two states", expected="an output for each")
    return dict(states)


def _found(inputs: list[Port], outputs: list[Port], data: Collection[str]) -> dict[str, str | None]:
    pairs: dict[str, str | None] = {}
    for port in (p for p in inputs if p.dtype.kind == "f" and p.name not in data):
        named = [o for o in outputs if _same_name(port.name, o.name) and _same_shape(port, o)]
        if len(named) == 1 and named[0].name not in pairs.values():
            pairs[port.name] = named[0].name
    for port in inputs[1:]:
        if port.name in pairs or port.name in data or port.open or port.dtype.kind != "f":
            continue
        others = [p for p in inputs if _same_shape(p, port)]
        found = [o.name for o in outputs if _same_shape(port, o)]
        if len(others) == len(found) == 1 and found[0] != outputs[0].name and found[0] not in pairs.values():
            pairs[port.name] = found[0]
    return pairs


def _same_shape(a: Port, b: Port) -> bool:
    """Whether sizes that are numbers in both are the same."""
    pairs = list(zip(a.sizes, b.sizes, strict=False))
    fixed = all(isinstance(n, str) or isinstance(m, str) or n == m for n, m in pairs)
    return len(a.sizes) == len(b.sizes) and a.dtype == b.dtype and fixed


def _same_name(before: str, after: str) -> bool:
    """Whether two names are those of a state before and after a step.

    >>> pairs = [("state", "stateN"), ("h", "hn"), ("conv_cache", "conv_cache_out"), ("prev_h", "next_h"), ("h0", "hn")]
    >>> [_same_name(*pair) for pair in [*pairs, ("in_cache0", "out_cache0")]]
    [True, True, True, True, True, True]
    >>> [_same_name(*pair) for pair in [("input", "output"), ("mix", "enh"), ("in_cache0", "out_cache1")]]
    [False, False, False]
    """
    if after.lower() == before.lower() + "n":
        return True
    first, last = _words(before), [w for w in _words(after) if w not in _AFTER]
    bases = [[w for w in first if w not in words] for words in (_BEFORE, _BEFORE - {"0"})]
    return any(bases[0]) and last in bases and before != after


def _words(name: str) -> list[str]:
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)
    split = [["h", "n"] if w.lower() == "hn" else ["c", "n"] if w.lower() == "cn" else [w.lower()] for w in words]
    return [w for part in split for w in part]


def _list(what: str, names: list[str]) -> str:
    return f"{what} ({', '.join(names)})"
