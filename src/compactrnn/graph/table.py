"""Embedding tables, whose columns are units that recurrent layers read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import CodeType

from torch import nn

from .leaf import keys
from .trace import Trace, operation
from .unseen import uncalled

COLUMNS = "columns"  # the name of their unit set
_SIZES = ("num_embeddings", "embedding_dim", "padding_idx")


@dataclass(frozen=True)
class Table:
    """The table of an `nn.Embedding`, (tokens, columns); `parameter` is its name in the model."""

    key: int
    name: str
    parameter: str
    count: int
    alone = False


def find_tables(traced: Trace, ran: Iterable[CodeType]) -> dict[int, Table]:
    """The tables of which every use is known: lookups, and linear layers with the same parameter; by key.

    A table that is frozen, or whose rows are normalized by all of their columns, is left out.
    """
    modules = [(name, m) for name, m in traced.model.named_modules() if type(m) is nn.Embedding]
    tables = [Table(next(keys), name, f"{name}.weight", m.embedding_dim) for name, m in modules if _is_plain(m)]
    beside = uncalled(traced.model, tables, set(ran), _SIZES)
    return {t.key: t for t in tables if t.key not in beside and _is_known(t, traced)}


def _is_plain(module: nn.Embedding) -> bool:
    hooks = module._forward_hooks or module._forward_pre_hooks
    return module.max_norm is None and module.weight.requires_grad and not hooks


def _is_known(table: Table, traced: Trace) -> bool:
    found = False
    for graph in (traced, traced.training):
        for node in graph.nodes if graph else ():
            for a in node.all_input_nodes:
                if graph.is_parameter(a, table.parameter):  # pyright: ignore
                    place = {"embedding": 0, "linear": 1}.get(operation(node))
                    if place is None or node.args[place] is not a or list(node.args).count(a) > 1:
                        return False
                    found = True
    return found
