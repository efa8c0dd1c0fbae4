"""Lowering of torch models to programs and model files."""

from .lowering import lower as lower
from .pack_model import pack as pack
from .pack_report import PackReport as PackReport
