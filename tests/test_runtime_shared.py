"""Matrices whose entries share numbers, in files and engines."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compactrnn import Engine, ModelFileError
from compactrnn.runtime import _native
from compactrnn.runtime import layout as lay
from compactrnn.runtime.file import read, write
from compactrnn.runtime.gates import gate_rows
from compactrnn.runtime.inventory import inventory
from compactrnn.runtime.program import Code, Op, Ref, Tensor
from compactrnn.runtime.shared import CirculantBlocks, HashedEntries, hashed
from test_runtime_file import repair
from test_runtime_reference import one_op


def affine(tensor):
    n, k = tensor.shape
    return one_op(Op(Code.AFFINE, Ref(1), n, k, a=Ref(0), tensor=0, name="fc"), k, [tensor])


def shared(rng, kind, units, columns, gates=1, size=3, block=4, interleaved=False):
    form = kind(gates * units, columns, gates, interleaved)
    if kind is CirculantBlocks:
        size = next(n for n in range(min(size, columns), 0, -1) if columns % n == 0)
    values = rng.normal(size=form.stored_shape(min(size, units * columns))).astype(np.float32)
    return Tensor(values, block=block, form=form)


def test_circulant_blocks_are_cut_off_and_beside_each_other():
    tensor = shared(np.random.default_rng(0), CirculantBlocks, 5, 6, gates=2, size=3)
    assert tensor.values.shape == (2, 2, 2, 3)
    matrix = tensor.dense().reshape(2, 5, 6)
    for gate in range(2):
        for i in range(5):
            for j in range(6):
                assert matrix[gate, i, j] == tensor.values[gate, i // 3, j // 3, (i % 3 - j % 3) % 3]


def test_hashed_entries_are_those_of_the_finalizer_of_murmurhash3():
    def mixed(h):
        h = (h ^ h >> 16) * 0x85EBCA6B & 0xFFFFFFFF
        h = (h ^ h >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
        return h ^ h >> 16

    # the finalizer's published values
    assert [mixed(h) for h in (0, 1, 2)] == [0, 0x514E28B7, 0x30F4C306]
    tensor = shared(np.random.default_rng(0), HashedEntries, 5, 6, gates=2, size=7)
    for gate, matrix in enumerate(tensor.dense().reshape(2, 30)):
        for place, entry in enumerate(matrix):
            number = tensor.values[gate, (mixed(place) >> 1) % 7]
            assert entry == (-number if mixed(place) % 2 else number)


def test_a_hash_uses_all_numbers_and_both_signs():
    numbers = hashed(64 * 64, 512)
    counts = np.bincount(numbers, minlength=1024)
    assert abs(counts[:512].sum() - 2048) < 4 * 32 and (counts[:512] + counts[512:]).min() > 0
    # as many as chance gives: the sum of squares has mean (count - 1) and deviation sqrt(2 count)
    assert abs(((counts - 4) ** 2 / 4).sum() - 1023) < 5 * (2 * 1024) ** 0.5


@settings(deadline=None, max_examples=80)
@given(
    st.sampled_from([CirculantBlocks, HashedEntries]),
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 5),
    st.integers(1, 40),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_the_core_multiplies_with_the_matrix(kind, units, columns, gates, size, block, interleaved, seed):
    tensor = shared(np.random.default_rng(seed), kind, units, columns, gates, size, block, interleaved)
    data, wanted = write(affine(tensor)), tensor.dense()
    for isa in _native.isas():
        engine = Engine(data, isa=isa)
        np.testing.assert_array_equal(engine.run(np.eye(columns, dtype=np.float32)).T, wanted.astype(np.float32))
    back = read(data)
    assert write(back) == data and back.tensors[0].form == tensor.form
    assert engine.macs_per_step == tensor.shape[0] * columns
    (row,) = inventory(back)
    assert row["parameters"] == tensor.values.size and row["stored as"] == f"{kind.name} float32"

    assert row["bytes"] == 64 + 4 * tensor.values.size < len(data)


def test_a_file_is_as_large_as_what_is_counted():
    for kind, size in ((CirculantBlocks, 256), (CirculantBlocks, 16), (HashedEntries, 1000)):
        tensor = shared(np.random.default_rng(0), kind, 256, 256, 4, size, interleaved=True)
        assert len(write(affine(tensor))) < 4 * tensor.values.size + 1024


@pytest.mark.parametrize("kind", [CirculantBlocks, HashedEntries])
def test_rows_in_the_order_of_the_kernels(kind):
    tensor = shared(np.random.default_rng(0), kind, 7, 12, gates=3, size=4)
    other = replace(tensor, form=tensor.form.interleaved_for(3))
    np.testing.assert_array_equal(other.dense(), gate_rows(tensor.dense(), 3))
    assert tensor.form.interleaved_for(4) is None


@pytest.mark.parametrize(
    "form, values, message",
    [
        (CirculantBlocks(6, 4), np.zeros((1, 2, 1, 3), np.float32), "sizes for 6 x 4 entries"),
        (CirculantBlocks(6, 4), np.zeros((1, 1, 1, 4), np.float32), r"expected float32 of shape \(1, 2, 1, 4\)"),
        (CirculantBlocks(6, 4), np.zeros((1, 2, 1, 4)), "got float64"),
        (CirculantBlocks(7, 4, 2), np.zeros((1, 2, 1, 4), np.float32), "a multiple of 2 gates"),
        (HashedEntries(6, 4), np.zeros((1, 25), np.float32), "sizes for 6 x 4 entries"),
        (HashedEntries(6, 4), np.zeros((2, 3), np.float32), r"expected float32 of shape \(1, 3\)"),
        (HashedEntries(6, 4), np.full((1, 3), np.nan, np.float32), "got nan"),
        (HashedEntries(6, 4), np.full((1, 3), 2e10, np.float32), r"numbers up to 1e\+10"),
    ],
)
def test_other_values_are_refused(form, values, message):
    with pytest.raises(ValueError, match=message):
        form.check(values)


@pytest.mark.parametrize("kind", [CirculantBlocks, HashedEntries])
@pytest.mark.parametrize(
    "field, value",
    [("rule", 3), ("rule", 0), ("size", 0), ("size", 33), ("size", 1 << 31), ("rank", 1), ("gates", 0), ("units", 9)],
)
def test_a_head_that_does_not_fit_is_refused(kind, field, value):
    tensor = shared(np.random.default_rng(0), kind, 8, 4, gates=2, size=4)
    data = bytearray(write(affine(tensor)))
    head = np.zeros(1, lay.TOEPLITZ)
    head["gates"], head["units"], head["rule"], head["size"] = 2, 8, kind.rule, 4
    at = bytes(data).index(head.tobytes())
    head[field] = value
    data[at : at + 64] = head.tobytes()
    with pytest.raises(ModelFileError):
        Engine(repair(bytes(data)))
