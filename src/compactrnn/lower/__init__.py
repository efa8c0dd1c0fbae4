"""From a torch model to a program and its file."""

from .lower import lower as lower
from .pack import PackReport as PackReport
from .pack import pack as pack
