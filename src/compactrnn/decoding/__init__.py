"""From the log-probabilities of an acoustic model to words."""

from .alphabet import Alphabet as Alphabet
from .alphabet import log_softmax as log_softmax
from .base import AbstractDecoder as AbstractDecoder
from .bigram import Bigram as Bigram
from .greedy import GreedyDecoder as GreedyDecoder
from .lexicon import LexiconDecoder as LexiconDecoder
from .recognizer import Recognizer as Recognizer
from .recognizer import recognize as recognize
from .spec import RecognizerSpec as RecognizerSpec
