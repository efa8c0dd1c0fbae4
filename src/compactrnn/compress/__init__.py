"""Structured pruning: how a trained model becomes smaller."""

from .folder import load as load
from .folder import save as save
from .group_lasso import GroupLasso as GroupLasso
from .plan import PruningPlan as PruningPlan
from .report import PruneReport as PruneReport
