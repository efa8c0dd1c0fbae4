"""Weights: how a matrix is stored, one file each."""

from .base import AbstractWeight as AbstractWeight
from .base import WeightSpec as WeightSpec
from .block_sparse import BlockSparse as BlockSparse
from .dense import DENSE as DENSE
from .dense import Dense as Dense
from .dense import DenseWeight as DenseWeight
from .kronecker import Kronecker as Kronecker
from .low_rank import LowRank as LowRank
from .sparse_term import SparseTerm as SparseTerm
from .terms import Matrix as Matrix
from .terms import Term as Term
from .toeplitz_like import ToeplitzLike as ToeplitzLike
from .toeplitz_term import ToeplitzTerm as ToeplitzTerm
