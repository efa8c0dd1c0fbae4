"""Pruning and factorization: how a trained model becomes smaller."""

from .analyze import Analysis as Analysis
from .analyze import analyze as analyze
from .changes import DeltaReport as DeltaReport
from .delta import Delta as Delta
from .distill import Distill as Distill
from .distill import distillation_loss as distillation_loss
from .doping import Doping as Doping
from .factorization import FactorizationPlan as FactorizationPlan
from .factorize import factorize_ as factorize_
from .factorize import plan_factorization as plan_factorization
from .folder import load as load
from .folder import save as save
from .gates import AbstractGate as AbstractGate
from .gradual_pruning import GradualUnitPruning as GradualUnitPruning
from .group_lasso import GroupLasso as GroupLasso
from .groups import Group as Group
from .l0_selection import L0Selection as L0Selection
from .magnitude import Magnitude as Magnitude
from .method import AbstractPruningMethod as AbstractPruningMethod
from .neuron_selection import NeuronSelection as NeuronSelection
from .plan import PruningPlan as PruningPlan
from .proximal_group_lasso import ProximalGroupLasso as ProximalGroupLasso
from .pruner import Pruner as Pruner
from .quantize import Quantize as Quantize
from .quantize import QuantizeReport as QuantizeReport
from .report import PruneReport as PruneReport
