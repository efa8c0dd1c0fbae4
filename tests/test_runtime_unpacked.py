"""int4 matrices that the kernels of AVX2 multiply with unpacked, a byte for each entry, where they fit a near cache."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compactrnn import Engine
from compactrnn.runtime import _native
from compactrnn.runtime.file import write
from compactrnn.runtime.program import Code, Op, Ref, Tensor
from compactrnn.runtime.quantize import quantize
from test_runtime_reference import one_op

pytestmark = pytest.mark.skipif("avx2" not in _native.isas(), reason="the processor has no AVX2")


def affine(rows, columns, seed=0):
    matrix = np.random.default_rng(seed).uniform(-1, 1, (rows, columns)).astype(np.float32)
    program = one_op(Op(Code.AFFINE, Ref(1), rows, columns, a=Ref(0), tensor=0, name="fc"), columns, [Tensor(matrix)])
    return write(quantize(program, "int4"))


@settings(max_examples=60)
@given(
    rows=st.integers(1, 150),
    columns=st.integers(1, 200),
    steps=st.sampled_from([1, 3, 4, 9]),
    seed=st.integers(0, 99),
)
def test_unpacked_entries_give_the_same_bits(rows, columns, steps, seed):
    data = affine(rows, columns, seed)
    xs = np.random.default_rng(seed).normal(size=(steps, columns)).astype(np.float32)
    engine = Engine(data, isa="avx2")
    assert engine.expanded_bytes >= rows * columns
    assert engine.run(xs).tobytes() == Engine(data, isa="scalar").run(xs).tobytes()


def test_only_models_that_fit_a_near_cache_are_unpacked():
    assert Engine(affine(4096, 4096), isa="avx2").expanded_bytes == 0  # 8 MiB as they are stored
    assert all(Engine(affine(64, 64), isa=isa).expanded_bytes == 0 for isa in _native.isas() if isa != "avx2")
