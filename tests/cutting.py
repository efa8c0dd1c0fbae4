"""Helpers for tests of shrinking: zero units, shrink, compare."""

import torch
from torch.utils._pytree import tree_leaves

import compactrnn as cr
from compactrnn.compress.compare import run
from compactrnn.graph.example import Example


def silence(pruner, share=0.5, seed=0):
    """Let the pruner zero a fraction of the units of every group, as at the end of a schedule."""
    generator = torch.Generator().manual_seed(seed)
    for group in pruner.groups:
        group.decay_((torch.rand(group.count, generator=generator) > share).float())


def cut(model, inputs, share=0.5):
    """A model with zeroed units, and what it shrinks to."""
    pruner = cr.GroupLasso(model, inputs, strength=0.0)
    silence(pruner, share)
    return pruner, pruner.shrink()


def outputs(model, inputs, training=False):
    return [
        t
        for t in tree_leaves(run(model, Example.of(model, inputs), training, torch.float64))
        if isinstance(t, torch.Tensor)
    ]


def assert_same(model, small, *batches, modes=(False, True)):
    """The same outputs, of the same shapes, for all batches in both modes."""
    for inputs in batches:
        for training in modes:
            for old, new in zip(outputs(model, inputs, training), outputs(small, inputs, training), strict=True):
                torch.testing.assert_close(new, old, rtol=1e-7, atol=1e-7, equal_nan=True)


def size(model):
    return sum(p.numel() for p in model.parameters())


def kept(pruner):
    """Units left and units there were, by unit set."""
    return {layer.name: (layer.kept, layer.units) for layer in pruner.report().layers}
