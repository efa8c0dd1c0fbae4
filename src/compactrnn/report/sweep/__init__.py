"""Sweeps: a recipe trained with all combinations of some of its entries, on many processors."""
