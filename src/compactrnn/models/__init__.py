"""Models that a recipe can build: an input or embedding, recurrent layers, an output layer."""

from .base import AbstractModel as AbstractModel
from .recurrent_lm import LanguageModel as LanguageModel
from .recurrent_lm import LanguageModelOptions as LanguageModelOptions
from .sequence_model import SequenceModel as SequenceModel
from .sequence_model import SequenceModelOptions as SequenceModelOptions
