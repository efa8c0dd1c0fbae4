"""Contract tests for weights, cells, compressors and programs, for use in your own tests."""

from .cell_contract import CellContract as CellContract
from .compressor_contract import CompressorCase as CompressorCase
from .compressor_contract import CompressorContract as CompressorContract
from .runtime_contract import RuntimeContract as RuntimeContract
from .weight_contract import WeightContract as WeightContract
