"""The contract of programs on the engine, as pytest tests."""

from __future__ import annotations

import numpy as np
import pytest

from ..runtime import _native  # pyright: ignore[reportAttributeAccessIssue]
from ..runtime.engine import Engine, Stream
from ..runtime.file import read, write
from ..runtime.program import Program
from .programs import random_input


class RuntimeContract:
    """The tests of one program, for pytest: subclass it, and give `program` by a fixture or a parameter.

    ::

        @pytest.mark.parametrize("program", [lower(model, example), quantize(lower(model, example))])
        class TestMyModel(RuntimeContract):
            pass
    """

    steps = 7

    def _streaming(self, program: Program) -> Engine:
        if program.offline:
            pytest.skip("needs whole sequences, so it has no streams")
        return Engine(write(program))

    def test_file_round_trip(self, program: Program):
        """Reading and writing again gives the same bytes."""
        data = write(program)
        assert write(read(data)) == data

    def test_run_is_steps(self, program: Program):
        """`run(T)`, T steps, and any chunks of them agree bit for bit; so does `engine.run`."""
        engine = self._streaming(program)
        xs = random_input(program, self.steps)
        whole = _outputs(_opened(engine, xs).run(_cut(engine, xs, slice(None))))
        stream, other = _opened(engine, xs), _opened(engine, xs)
        rows = [_outputs(stream.step(_cut(engine, xs, t))) for t in range(self.steps)]
        chunks = [_outputs(other.run(_cut(engine, xs, slice(a, b)))) for a, b in ((0, 2), (2, 2), (2, self.steps))]
        for i, output in enumerate(engine.outputs):
            assert _same(whole[i], np.stack([row[i] for row in rows]))
            assert _same(whole[i], np.concatenate([chunk[i] for chunk in chunks]))
            last = _outputs(engine.run(xs))[i]
            assert _same(last, whole[i][-1] if output.final else whole[i])

    def test_every_isa_gives_the_same_bits(self, program: Program):
        """The kernels of all instruction sets that this processor has agree bit for bit, in chunks and step by step."""
        data, xs = write(program), random_input(program, self.steps)
        results = []
        for isa in _native.isas():
            engine = Engine(data, isa=isa)
            results.append(_outputs(engine.run(xs)))
            if not engine.offline:
                stream = _opened(engine, xs)
                results[-1] += _outputs(stream.run(_cut(engine, xs, slice(0, 5))))
                results[-1] += _outputs(stream.step(_cut(engine, xs, 5)))
        for other in results[1:]:
            assert all(_same(a, b) for a, b in zip(results[0], other, strict=True))

    def test_engine_run_repeats(self, program: Program):
        """A whole sequence gives the same bits each time: nothing is left over from the last."""
        engine = Engine(write(program))
        xs = random_input(program, self.steps)
        first = _outputs(engine.run(xs))
        _outputs(engine.run(random_input(program, self.steps, seed=1)))
        assert all(_same(a, b) for a, b in zip(first, _outputs(engine.run(xs)), strict=True))

    def test_reset_copy_and_state_bytes(self, program: Program):
        """A stream starts again after `reset`; a copy, and one that loads its state, go on as it does."""
        engine = self._streaming(program)
        xs = random_input(program, self.steps)
        first, then = _cut(engine, xs, slice(0, 3)), _cut(engine, xs, slice(3, self.steps))
        stream = _opened(engine, xs)
        start = _outputs(stream.run(first))
        copied, loaded = stream.copy(), _opened(engine, xs)
        loaded.load_state_bytes(stream.state_bytes())
        after = _outputs(stream.run(then))
        for other in (copied, loaded):
            assert all(_same(a, b) for a, b in zip(after, _outputs(other.run(then)), strict=True))
        stream.reset()
        assert all(_same(a, b) for a, b in zip(start, _outputs(stream.run(first)), strict=True))

    def test_not_a_number_passes_and_reset_recovers(self, program: Program):
        """After NaN and infinities, `reset` gives what a fresh stream gives."""
        engine = self._streaming(program)
        xs = random_input(program, self.steps)
        stream, whole = _opened(engine, xs), _cut(engine, xs, slice(None))
        for value in (np.nan, np.inf, -np.inf, 3e38):
            stream.step(_filled(engine, value))
        stream.reset()
        fresh = _outputs(_opened(engine, xs).run(whole))
        assert all(_same(a, b) for a, b in zip(fresh, _outputs(stream.run(whole)), strict=True))


def _outputs(y) -> tuple[np.ndarray, ...]:
    return y if isinstance(y, tuple) else (y,)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def _opened(engine: Engine, xs) -> Stream:
    """A stream with those inputs that a sequence has once."""
    return engine.stream(
        **{port.name: x for port, x in zip(engine.inputs, _each(engine, xs), strict=True) if port.once}
    )


def _cut(engine: Engine, xs, at):
    """The inputs of one step or of several, as a stream takes them."""
    return _alone([x[at] for port, x in zip(engine.inputs, _each(engine, xs), strict=True) if not port.once])


def _filled(engine: Engine, value: float):
    ports = [port for port in engine.inputs if not port.once]
    return _alone([0 if port.vocabulary else np.full(port.shape, value, np.float32) for port in ports])


def _each(engine: Engine, xs) -> tuple:
    return xs if len(engine.inputs) > 1 else (xs,)


def _alone(rows: list):
    return rows[0] if len(rows) == 1 else tuple(rows)
