"""Lowering of torch models to programs and model files."""

from ..emit.packed_file import PackReport as PackReport
from .lowering import lower as lower
from .pack_model import pack as pack
