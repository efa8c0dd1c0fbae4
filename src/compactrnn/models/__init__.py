"""Models that a recipe can build: an input or embedding, recurrent layers, an output layer."""

from .acoustic_model import AcousticModel as AcousticModel
from .acoustic_model import AcousticModelOptions as AcousticModelOptions
from .audio_model import AudioModel as AudioModel
from .audio_model import AudioModelOptions as AudioModelOptions
from .base import AbstractModel as AbstractModel
from .log_mel import LogMel as LogMel
from .reader import Reader as Reader
from .reader import ReaderOptions as ReaderOptions
from .recurrent_lm import LanguageModel as LanguageModel
from .recurrent_lm import LanguageModelOptions as LanguageModelOptions
from .sequence_model import SequenceModel as SequenceModel
from .sequence_model import SequenceModelOptions as SequenceModelOptions
from .series_model import SeriesModel as SeriesModel
from .series_model import SeriesModelOptions as SeriesModelOptions
