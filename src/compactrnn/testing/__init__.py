"""Contracts that every weight, cell, compressor and runtime keeps, for use in your own tests too."""

from .cell_contract import CellContract as CellContract
from .weight_contract import WeightContract as WeightContract
