"""How a matrix is stored: one file each."""

from .base import AbstractWeight as AbstractWeight
from .base import WeightSpec as WeightSpec
from .dense import Dense as Dense
