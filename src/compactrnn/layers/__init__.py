"""Cells in time: layers that take sequences."""
