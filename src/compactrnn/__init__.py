"""Compact recurrent networks: train, prune, quantize, verify, and run them natively.

>>> import compactrnn as cr
>>> lstm = cr.LSTM(8, [16, 12], batch_first=True)
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._errors import ModelFileError as ModelFileError
    from ._errors import UnsupportedModelError as UnsupportedModelError
    from .cells import DFSMN as DFSMN
    from .cells import DIALSTM as DIALSTM
    from .cells import ENRNN as ENRNN
    from .cells import FSMN as FSMN
    from .cells import GILR as GILR
    from .cells import GILRLSTM as GILRLSTM
    from .cells import LMU as LMU
    from .cells import LRU as LRU
    from .cells import MGU as MGU
    from .cells import NBRC as NBRC
    from .cells import QRNN as QRNN
    from .cells import RHN as RHN
    from .cells import SLSTM as SLSTM
    from .cells import SRU as SRU
    from .cells import URNN as URNN
    from .cells import CoupledLSTM as CoupledLSTM
    from .cells import DuRNN as DuRNN
    from .cells import Elman as Elman
    from .cells import FastGRNN as FastGRNN
    from .cells import FastRNN as FastRNN
    from .cells import HiPPO as HiPPO
    from .cells import IndRNN as IndRNN
    from .cells import LayerNormLSTM as LayerNormLSTM
    from .cells import LazyLSTM as LazyLSTM
    from .cells import MinGRU as MinGRU
    from .cells import MinLSTM as MinLSTM
    from .cells import OrthogonalRNN as OrthogonalRNN
    from .cells import ParallelLMU as ParallelLMU
    from .cells import PeepholeLSTM as PeepholeLSTM
    from .compress import Delta as Delta
    from .compress import Distill as Distill
    from .compress import Doping as Doping
    from .compress import FactorizationPlan as FactorizationPlan
    from .compress import GroupLasso as GroupLasso
    from .compress import Magnitude as Magnitude
    from .compress import NeuronSelection as NeuronSelection
    from .compress import PruningPlan as PruningPlan
    from .compress import Quantize as Quantize
    from .compress import analyze as analyze
    from .compress import factorize_ as factorize_
    from .compress import load as load
    from .compress import plan_factorization as plan_factorization
    from .compress import save as save
    from .decoding import Recognizer as Recognizer
    from .decoding import recognize as recognize
    from .layers import GRU as GRU
    from .layers import LSTM as LSTM
    from .layers import RNN as RNN
    from .layers import Embedding as Embedding
    from .layers import Linear as Linear
    from .layers import Recurrent as Recurrent
    from .layers import checkpointed as checkpointed
    from .layers import convert_ as convert_
    from .layers import from_torch as from_torch
    from .layers import linear_scan as linear_scan
    from .layers import tie_ as tie_
    from .layers import tie_directions_ as tie_directions_
    from .layers import truncated as truncated
    from .onnx_module import from_onnx as from_onnx
    from .packing import pack as pack
    from .report.inside import LayerView as LayerView
    from .report.inside import see_inside as see_inside
    from .runtime.adaptive import AdaptiveEngine as AdaptiveEngine
    from .runtime.audio import Audio as Audio
    from .runtime.audio_stream import AudioStream as AudioStream
    from .runtime.engine import Engine as Engine
    from .training.compress_model import Compressed as Compressed
    from .training.compress_model import compress_model as compress_model
    from .weights import BlockCirculant as BlockCirculant
    from .weights import BlockDiagonal as BlockDiagonal
    from .weights import BlockSparse as BlockSparse
    from .weights import Circulant as Circulant
    from .weights import Convolution as Convolution
    from .weights import Dense as Dense
    from .weights import Diagonal as Diagonal
    from .weights import Doped as Doped
    from .weights import Hashed as Hashed
    from .weights import Kronecker as Kronecker
    from .weights import LowRank as LowRank
    from .weights import Monarch as Monarch
    from .weights import Quantized as Quantized
    from .weights import Sparse as Sparse
    from .weights import Sum as Sum
    from .weights import TensorTrain as TensorTrain
    from .weights import ToeplitzLike as ToeplitzLike

__version__ = "0.1.0"

_HOME = {
    "AdaptiveEngine": "runtime.adaptive",
    "Audio": "runtime.audio",
    "AudioStream": "runtime.audio_stream",
    "BlockSparse": "weights",
    "BlockCirculant": "weights",
    "BlockDiagonal": "weights",
    "Circulant": "weights",
    "Convolution": "weights",
    "Delta": "compress",
    "Diagonal": "weights",
    "Distill": "compress",
    "Doped": "weights",
    "Doping": "compress",
    "Hashed": "weights",
    "Monarch": "weights",
    "Sparse": "weights",
    "Sum": "weights",
    "TensorTrain": "weights",
    "Dense": "weights",
    "DuRNN": "cells",
    "Elman": "cells",
    "Embedding": "layers",
    "Engine": "runtime.engine",
    "FSMN": "cells",
    "FastGRNN": "cells",
    "FactorizationPlan": "compress",
    "GILR": "cells",
    "GILRLSTM": "cells",
    "GRU": "layers",
    "GroupLasso": "compress",
    "Magnitude": "compress",
    "NeuronSelection": "compress",
    "HiPPO": "cells",
    "IndRNN": "cells",
    "Kronecker": "weights",
    "LSTM": "layers",
    "Linear": "layers",
    "LowRank": "weights",
    "MGU": "cells",
    "MinGRU": "cells",
    "ENRNN": "cells",
    "URNN": "cells",
    "OrthogonalRNN": "cells",
    "LMU": "cells",
    "LRU": "cells",
    "DFSMN": "cells",
    "DIALSTM": "cells",
    "LayerNormLSTM": "cells",
    "LazyLSTM": "cells",
    "LayerView": "report.inside",
    "CoupledLSTM": "cells",
    "FastRNN": "cells",
    "MinLSTM": "cells",
    "NBRC": "cells",
    "ParallelLMU": "cells",
    "PeepholeLSTM": "cells",
    "QRNN": "cells",
    "SLSTM": "cells",
    "SRU": "cells",
    "ModelFileError": "_errors",
    "PruningPlan": "compress",
    "RHN": "cells",
    "RNN": "layers",
    "Quantize": "compress",
    "Quantized": "weights",
    "Recognizer": "decoding",
    "Recurrent": "layers",
    "ToeplitzLike": "weights",
    "UnsupportedModelError": "_errors",
    "analyze": "compress",
    "checkpointed": "layers",
    "Compressed": "training.compress_model",
    "compress_model": "training.compress_model",
    "convert_": "layers",
    "factorize_": "compress",
    "from_onnx": "onnx_module",
    "from_torch": "layers",
    "load": "compress",
    "loop_report": "layers",
    "pack": "packing",
    "recognize": "decoding",
    "plan_factorization": "compress",
    "save": "compress",
    "see_inside": "report.inside",
    "time_loop": "layers",
    "linear_scan": "layers",
    "tie_": "layers",
    "tie_directions_": "layers",
    "truncated": "layers",
}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'compactrnn' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
