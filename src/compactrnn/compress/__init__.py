"""How a big model becomes small."""

from .folder import load as load
from .folder import save as save
from .group_lasso import GroupLasso as GroupLasso
from .report import PruneReport as PruneReport
