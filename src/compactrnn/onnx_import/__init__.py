"""Import of ONNX files: read, folded, lowered to programs and packed, without torch."""

from .lowering import lower as lower
from .model_file import ModelFile as ModelFile
from .pack_file import pack_onnx as pack_onnx
