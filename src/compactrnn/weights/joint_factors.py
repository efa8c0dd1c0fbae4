"""One factor for two matrices that multiply the same vector."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import check_part, check_positive, invalid
from .low_rank import rank_of_energy


@torch.no_grad()
def joint_factors(
    hidden: Tensor,
    next_input: Tensor | None = None,
    *,
    rank: int | None = None,
    energy: float | None = None,
    stacked: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """P, Z_h and Z_x with `hidden = Z_h P` and `next_input = Z_x P`, as nearly as `rank` rows of P allow.

    `hidden`, (m, n), is a layer's recurrent matrix, `next_input`, (k, n), the matrix by which the next layer reads the
    same n units. P, (rank, n), has orthonormal rows, so that `Z = W P^T` is the least-squares fit of any W to it.

        hidden = U S V^T,   P = V_r^T,   Z_h = U_r S_r,   Z_x = next_input P^T

    With `stacked` P is of the SVD of both, one above the other, which has the smallest error of the two together. In
    place of `rank` give `energy`: the smallest r with `sum_{i <= r} s_i^2 >= energy * sum_i s_i^2` over the singular
    values. At rank n nothing is lost. Computed in float64, given in the dtype of `hidden`.

    >>> hidden, following = torch.randn(32, 8), torch.randn(20, 8)
    >>> P, Z_h, Z_x = joint_factors(hidden, following, rank=8)
    >>> torch.allclose(Z_h @ P, hidden, atol=1e-5), torch.allclose(Z_x @ P, following, atol=1e-5)
    (True, True)

    Raises:
        ValueError: both or none of `rank` and `energy`, one out of range; matrices that do not have the same columns.

    Source: Prabhavalkar, Alsharif, Bruguier, McGraw, "On the Compression of Recurrent Neural Networks with an
    Application to LVCSR Acoustic Modeling for Embedded Speech Recognition", 2016.
    """
    n = hidden.shape[-1]
    if hidden.dim() != 2 or (next_input is not None and (next_input.dim() != 2 or next_input.shape[1] != n)):
        shapes = [tuple(m.shape) for m in (hidden, next_input) if m is not None]
        raise invalid("joint_factors", got=f"shapes {shapes}", expected="matrices of the same number of columns")
    if (rank is None) == (energy is None):
        raise invalid("joint_factors", got=f"rank={rank}, energy={energy}", expected="exactly one of the two")
    if energy is not None:
        check_part(energy, "energy")
    if rank is not None and check_positive(rank, "rank") > n:
        raise invalid("rank", got=rank, expected=f"at most {n}, the number of columns")
    both = [m.double() for m in (hidden, next_input) if m is not None]
    _, s, vt = torch.linalg.svd(torch.cat(both) if stacked else both[0], full_matrices=rank is not None)
    if rank is None:
        rank = rank_of_energy(s, float(energy))  # pyright: ignore
    p = vt[:rank]
    z_h, *z_x = (m @ p.T for m in both)
    return p.to(hidden), z_h.to(hidden), z_x[0].to(hidden) if z_x else None
