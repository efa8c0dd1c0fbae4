"""How a big model becomes small."""

from .group_lasso import GroupLasso as GroupLasso
from .report import PruneReport as PruneReport
