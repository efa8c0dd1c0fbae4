"""The contract of weights, as pytest tests."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from ..weights import AbstractWeight, WeightSpec
from ..weights.dense import select
from ..weights.terms import product


class WeightContract:
    """The tests of one weight, for pytest: subclass it, and give `spec` by a fixture or a parameter.

    ::

        @pytest.mark.parametrize("spec", [LowRank(rank=4), Kronecker(out_block=4, in_block=2)], ids=str)
        class TestWeights(WeightContract):
            pass

    A structure with conditions on its sizes sets `sizes`, triples (out_features, in_features, gates).
    """

    sizes: ClassVar[tuple[tuple[int, int, int], ...]] = ((16, 12, 1), (12, 16, 1), (24, 12, 3), (32, 8, 4))

    def _weights(self, spec: WeightSpec) -> list[AbstractWeight]:
        torch.manual_seed(0)
        return [spec.build(*size).double() for size in self.sizes]

    def test_forward_is_the_product_with_dense(self, spec: WeightSpec):
        """`forward(x) == dense() @ x`, for any leading axes."""
        for weight in self._weights(spec):
            assert weight.dense().shape == (weight.out_features, weight.in_features)
            for leading in ((), (3,), (2, 5)):
                x = torch.randn(*leading, weight.in_features, dtype=torch.float64)
                assert_close(weight(x), x @ weight.dense().T)

    def test_gradients_are_those_of_dense(self, spec: WeightSpec):
        """Both ways to the product give the same gradients of the input and of every parameter."""
        for weight in self._weights(spec):
            x = torch.randn(5, weight.in_features, dtype=torch.float64, requires_grad=True)
            variables = [x, *weight.parameters()]
            through_forward = torch.autograd.grad(weight(x).sin().sum(), variables)
            through_dense = torch.autograd.grad((x @ weight.dense().T).sin().sum(), variables)
            assert_close(through_forward, through_dense)

    def test_terms_multiply_to_dense(self, spec: WeightSpec):
        """What is multiplied at run time is W, and costs what `macs` and `runtime_parameters` say."""
        for weight in self._weights(spec):
            matrices = [term.dense() for term in weight.terms()]
            assert [tuple(m.shape) for m in matrices] == [term.shape for term in weight.terms()]
            assert_close(product(weight.terms()), weight.dense())
            assert weight.macs() == sum(term.macs for term in weight.terms())
            assert weight.stored_parameters() == sum(p.numel() for p in weight.parameters())

    def test_from_dense_comes_close(self, spec: WeightSpec):
        """`from_dense_` recovers a matrix of the same structure, and approximates any other better than zero does."""
        for weight in self._weights(spec):
            representable = spec.build(weight.out_features, weight.in_features, weight.gates).double().dense().detach()
            before = (weight.dense() - representable).norm()
            assert weight.from_dense_(representable) is weight
            assert (weight.dense() - representable).norm() < 1e-5 * before
            assert all(p.grad is None for p in weight.parameters())
            arbitrary = torch.randn_like(representable)
            before = (weight.dense() - arbitrary).norm()
            after = (weight.from_dense_(arbitrary).dense() - arbitrary).norm()
            assert after < before and after <= arbitrary.norm()

    def test_select_is_the_sub_matrix(self, spec: WeightSpec):
        """`select(weight, out, inp)` is `dense()[out][:, inp]`, with gates, trainability and sizes in order."""
        for size in self.sizes:
            for rows, columns in ((None, None), ([0, 2], None), (None, [1, 3, 4]), ([1], [2]), ([3, 0], [5, 1, 0, 7])):
                torch.manual_seed(1)
                weight = spec.build(*size)
                weight.requires_grad_(False)
                wanted, out = weight.dense(), None
                if rows is not None:
                    out = (torch.arange(weight.gates)[:, None] * weight.rows + torch.tensor(rows)).flatten()
                    wanted = wanted[out]
                inp = None if columns is None else torch.tensor(columns)
                wanted = wanted if inp is None else wanted[:, inp]
                small = select(weight, out=out, inp=inp)
                assert_close(small.dense(), wanted)
                assert (small.out_features, small.in_features) == tuple(wanted.shape)
                assert (small.gates, small.rows) == (size[2], wanted.shape[0] // size[2])
                assert_close(small(torch.eye(small.in_features)), wanted.T)
                assert not any(p.requires_grad for p in small.parameters())

    def test_scale_multiplies_rows_and_columns(self, spec: WeightSpec):
        """`scale_(out, inp)` does so where the structure can; elsewhere it is no further off than doing nothing."""
        for weight in self._weights(spec):
            out, inp = torch.rand(weight.out_features).double(), torch.rand(weight.in_features).double()
            before, wanted = weight.dense().detach().clone(), weight.dense().detach() * out[:, None] * inp
            assert weight.scale_(out=out, inp=inp) is weight
            assert (weight.dense() - wanted).norm() <= (before - wanted).norm()
            same = weight.dense().detach().clone()
            weight.scale_(out=torch.full_like(out, 0.5))
            weight.scale_(inp=torch.full_like(inp, 2.0))
            assert_close(weight.dense(), same, rtol=1e-4, atol=1e-4)

    def test_reset_draws_the_asked_variance(self, spec: WeightSpec):
        """The entries of W have about the variance of U(-bound, bound), whatever the structure."""
        for weight in self._weights(spec):
            for bound in (0.05, 1.0):
                weight.reset_parameters(bound)
                assert 0.7 < weight.dense().std().item() / (bound / 3**0.5) < 1.4

    def test_state_dict_round_trip(self, spec: WeightSpec):
        """The parameters are all there is: another weight that loads them is the same map.

        They stay the same objects, which an optimizer may have already.
        """
        for weight in self._weights(spec):
            weight.from_dense_(torch.randn(weight.out_features, weight.in_features))
            other = spec.build(weight.out_features, weight.in_features, weight.gates).double()
            before = list(other.parameters())
            other.load_state_dict(weight.state_dict(), strict=True)
            assert all(a is b for a, b in zip(before, other.parameters(), strict=True))
            assert_close(other.dense(), weight.dense(), rtol=0, atol=0)

    def test_a_copy_is_independent(self, spec: WeightSpec):
        """A deep copy has its own parameters."""
        for weight in self._weights(spec):
            before = weight.dense().detach().clone()
            other = copy.deepcopy(weight)
            other.reset_parameters(3.0)
            assert_close(weight.dense(), before, rtol=0, atol=0)
            assert not torch.equal(other.dense(), before)

    def test_it_learns(self, spec: WeightSpec):
        """A few steps of gradient descent bring the product nearer to a target matrix."""
        for weight in self._weights(spec):
            x, wanted = torch.randn(32, weight.in_features).double(), torch.randn(32, weight.out_features).double()

            def loss(weight: nn.Module = weight, x: Tensor = x, wanted: Tensor = wanted) -> Tensor:
                return (weight(x) - wanted).square().mean()

            optimizer, before = torch.optim.Adam(weight.parameters(), lr=0.02), loss().item()
            for _ in range(20):
                optimizer.zero_grad()
                loss().backward()
                optimizer.step()
            assert loss().item() < before

    def test_spec_is_a_value(self, spec: WeightSpec):
        """Specs compare, hash and print; they cannot be changed."""
        assert spec == copy.deepcopy(spec) and hash(spec) == hash(copy.deepcopy(spec))
        assert type(spec).__name__ in repr(spec)
