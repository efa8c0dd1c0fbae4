"""Weights: how a matrix is stored, one file each."""

from .base import AbstractWeight as AbstractWeight
from .base import WeightSpec as WeightSpec
from .block_diagonal import BlockDiagonal as BlockDiagonal
from .block_sparse import BlockSparse as BlockSparse
from .circulant import BlockCirculant as BlockCirculant
from .circulant import Circulant as Circulant
from .dense import DENSE as DENSE
from .dense import Dense as Dense
from .dense import DenseWeight as DenseWeight
from .diagonal import Diagonal as Diagonal
from .doped import Doped as Doped
from .hashed import Hashed as Hashed
from .joint_factors import joint_factors as joint_factors
from .kronecker import Kronecker as Kronecker
from .low_rank import LowRank as LowRank
from .monarch import Monarch as Monarch
from .quantized import Quantized as Quantized
from .quantized import QuantizedWeight as QuantizedWeight
from .sparse import Sparse as Sparse
from .sparse_term import SparseTerm as SparseTerm
from .sum import Sum as Sum
from .tensor_train import TensorTrain as TensorTrain
from .terms import Matrix as Matrix
from .terms import Term as Term
from .toeplitz_like import ToeplitzLike as ToeplitzLike
from .toeplitz_term import ToeplitzTerm as ToeplitzTerm
