"""Dual potentials of one-dimensional transport, read off the optimal staircase."""

from __future__ import annotations

import torch
from torch import Tensor

from distal.transport.costs import Cost, apply_cost
from distal.transport.solver import sort_problem

__all__ = ["dual_potentials"]


def dual_potentials(
    u: Tensor, v: Tensor, cost: Cost, *, u_weights: Tensor | None = None, v_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Optimal potentials of the dual problem `sup mean(phi) + mean(psi)` over `phi_i + psi_j <= h(u_i - v_j)`.

    On the cells of the optimal staircase the constraint is an equality, which fixes the potentials up to one
    constant: phi grows by the change of cost where the staircase moves on in u, psi where it moves on in v.
    For convex h the table of costs has the Monge property, so that equality along one monotone staircase
    implies the inequality everywhere. Hence phi and psi are c-concave, each the c-transform of the other:
    `phi_i = min_j h(u_i - v_j) - psi_j`. The constant is chosen so that both means are equal. (The paper
    prints the transform with phi at the wrong argument and the dual (12) with a sign that disagrees with it;
    this is the symmetric form.)

    `phi` is also the first variation of the transport cost in the law of u, hence the influence function of
    every statistic built on it.

    Args:
        u: sample, shape (n,), nats.
        v: sample, shape (m,), nats.
        cost: convex cost of the gap.
        u_weights: non-negative weights of u, shape (n,), normalised here; equal weights if None.
        v_weights: the same for v, shape (m,).

    Returns:
        phi, shape (n,), and psi, shape (m,), in the order of u and v, without a gradient. Their (weighted)
        means add up to `transport_cost(u, v, cost)`.

    Raises:
        ValueError: an empty, non-finite or non-1-D sample, bad weights, or different devices.
        TypeError: a sample that is not a floating tensor, or a cost that is not callable.

    Source:
        Kantorovich duality; arXiv 2406.05882, eq. (12), mended as above.

    Examples:
        >>> phi, psi = dual_potentials(torch.tensor([0.0, 2.0]), torch.tensor([3.0, 1.0]), torch.square)
        >>> (phi.mean() + psi.mean()).item()
        1.0
        >>> bool((phi[:, None] + psi[None, :] <= torch.tensor([[9.0, 1.0], [1.0, 1.0]])).all())
        True
    """
    with torch.no_grad():
        problem = sort_problem(u, v, u_weights, v_weights, equal_grids=False)
        assert problem.cells is not None
        u_rank, v_rank, mass = problem.cells
        on_path = apply_cost(cost, problem.u[u_rank].double() - problem.v[v_rank].double())
        steps, u_moves = on_path.diff(), u_rank.diff() > 0
        phi = torch.nn.functional.pad(steps[u_moves].cumsum(0), (1, 0))
        psi = torch.nn.functional.pad(steps[~u_moves].cumsum(0), (1, 0))
        # The cost of the first cell is still missing: share it so that both means come out equal.
        phi_mean, psi_mean = (mass * phi[u_rank]).sum(), (mass * psi[v_rank]).sum()
        shift = (on_path[0] + psi_mean - phi_mean) / 2
        phi, psi = phi + shift, psi + on_path[0] - shift
        dtype = problem.u.dtype
        return _unsort(phi, problem.u_order).to(dtype), _unsort(psi, problem.v_order).to(dtype)


def _unsort(ordered: Tensor, order: Tensor) -> Tensor:
    return torch.empty_like(ordered).scatter_(0, order, ordered)
