"""A weight of every term that a product is composed of, nested and in chains."""

from dataclasses import dataclass

import torch
from torch import nn

from compactrnn.weights import AbstractWeight, Matrix, WeightSpec
from compactrnn.weights.terms import Diagonal, Selection, Sum, product


@dataclass(frozen=True)
class Composed(WeightSpec):
    """`W = S (L R + D S' + (A + L' R')) D'`: S reverses the rows, S' takes a column for each row."""

    def build(self, out_features, in_features, gates=1):
        return ComposedWeight(self, out_features, in_features, gates)


class ComposedWeight(AbstractWeight):
    def __init__(self, spec, out_features, in_features, gates=1):
        super().__init__(spec, out_features, in_features, gates)
        out, inp = out_features, in_features
        sizes = {"left": (out, 2), "right": (2, inp), "added": (out, inp), "third": (out, 1), "fourth": (1, inp)}
        sizes |= {"each_row": (out,), "each_column": (inp,)}
        for name, size in sizes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(size)))
        self.reset_parameters()

    def reset_parameters(self, bound=None):
        bound = self.in_features**-0.5 if bound is None else bound
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        nn.init.uniform_(self.each_column, 0.5, 1.5)

    def forward(self, x):
        x = x * self.each_column
        low = nn.functional.linear(nn.functional.linear(x, self.right), self.left)
        taken = x[..., torch.arange(self.out_features) % (self.in_features + 1) % self.in_features] * self.each_row
        taken = taken * (torch.arange(self.out_features) % (self.in_features + 1) < self.in_features)
        added = nn.functional.linear(x, self.added + self.third @ self.fourth)
        return (low + taken + added).flip(-1)

    def terms(self):
        place = torch.arange(self.out_features, device=self.left.device) % (self.in_features + 1)
        index = torch.where(place < self.in_features, place, -1)
        low = Matrix(self.left), Matrix(self.right)
        both = Sum(((Matrix(self.added),), (Matrix(self.third), Matrix(self.fourth))))
        inner = Sum((low, (Diagonal(self.each_row), Selection(index, self.in_features)), (both,)))
        turned = Selection(torch.arange(self.out_features, device=self.left.device).flip(0), self.out_features)
        return turned, inner, Diagonal(self.each_column)

    def dense(self):
        return product(self.terms())
