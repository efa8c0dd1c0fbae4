"""Data sets: where they are stored and how they are read."""

from .an4 import load_an4 as load_an4
from .catalog import DATASETS as DATASETS
from .catalog import Dataset as Dataset
from .catalog import fetch as fetch
from .corpus import CORPORA as CORPORA
from .corpus import Corpus as Corpus
from .corpus import load_corpus as load_corpus
from .folder import data_folder as data_folder
from .fsdd import DigitString as DigitString
from .fsdd import SpokenDigits as SpokenDigits
from .fsdd import digit_strings as digit_strings
from .fsdd import load_fsdd as load_fsdd
from .glove import WordVectors as WordVectors
from .glove import load_glove as load_glove
from .mnist import load_mnist as load_mnist
from .polymusic import Music as Music
from .polymusic import load_polymusic as load_polymusic
from .squad import load_squad as load_squad
