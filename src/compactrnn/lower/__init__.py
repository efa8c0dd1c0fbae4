"""From a torch model to a program and its file."""

from .lowering import lower as lower
from .pack_model import PackReport as PackReport
from .pack_model import pack as pack
