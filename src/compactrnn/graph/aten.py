"""Operations by their ATen name, whatever the overload, and what they do with single numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from .._activations import ACTIVATIONS
from ..layers.node_names import operation as operation

# moves numbers around
MOVES = frozenset(
    """view _unsafe_view reshape permute transpose t numpy_T mT adjoint movedim swapaxes swapdims expand expand_as
    view_as broadcast_to squeeze unsqueeze slice select narrow cat concat stack hstack vstack column_stack flip roll
    rot90 split split_with_sizes chunk unbind index_select index gather clone contiguous detach detach_ alias repeat
    tile repeat_interleave flatten unflatten lift_fresh_copy dropout diagonal""".split()
)
# one number in, one number out
SAME = frozenset(ACTIVATIONS) | frozenset(
    """sigmoid tanh abs exp log sqrt reciprocal pow prelu clamp clamp_min clamp_max erf sin cos sign floor round
    _to_copy to type_as""".split()
)
PRODUCTS = frozenset(["mul", "div"])
SUMS = frozenset(["add", "sub", "rsub", "maximum", "minimum", "lerp"])
ENTRYWISE = SAME | PRODUCTS | SUMS
# along an axis; those of the second line give values and their places
REDUCTIONS = frozenset("sum mean amax amin cumsum std var prod linalg_vector_norm logsumexp logcumsumexp".split())
ORDERS = frozenset("max min topk sort kthvalue median mode cummax cummin".split())
POOLS = frozenset("max avg adaptive_max adaptive_avg".split())
SOFTMAXES = frozenset(["softmax", "_softmax", "log_softmax", "_log_softmax"])
WEIGHTED = frozenset(["linear", "convolution", "conv1d"])
# of their operands they read the shape
FRESH = frozenset("zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty".split())
RANDOM = frozenset(
    "rand_like randn_like randint_like uniform normal_functional exponential geometric log_normal random cauchy".split()
)
PADS = frozenset(["pad", "constant_pad_nd"])
INDEXED = frozenset(["index", "index_select", "gather"])
VIEWS = frozenset(["view", "_unsafe_view"])
BATCH_NORMS = frozenset(["_native_batch_norm_legit_no_training", "_native_batch_norm_legit_functional"])


def is_random(node: Node) -> bool:
    """Whether the node draws random numbers of which its operands give only the shape."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    return operation(node) in RANDOM or getattr(node.target, "_overloadname", "") == "p" or not node.all_input_nodes


def pooled_axes(name: str) -> int:
    """Over how many of the last axes an operation pools; 0 if it is no pooling."""
    kind, _, rest = name.lstrip("_").partition("_pool")
    return int(rest[0]) if kind in POOLS and rest[:1] in ("1", "2") else 0


def argument(node: Node, name: str, default: Any = None) -> Any:
    """The argument called `name` of an ATen operation."""
    if name in node.kwargs:
        return node.kwargs[name]
    for i, known in enumerate(node.target._schema.arguments):  # pyright: ignore
        if known.name == name:
            return node.args[i] if i < len(node.args) else known.default_value
    return default


def constant_pad(args: tuple) -> bool:
    """Whether a padding operation pads with one number (and does not reflect or repeat what it pads)."""
    return len(args) < 3 or not isinstance(args[2], str) or args[2] == "constant"
