"""Samples that belong together, such as several pairs of one prompt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["ClusterLabels", "Clusters"]

ClusterLabels = object
"""Labels as the user gives them: one array for pairs, or a tuple of two arrays, one per side."""


@dataclass(frozen=True)
class Clusters:
    """Cluster of every sample, from 0; a cluster may have samples on both sides.

    Attributes:
        u: clusters of u, shape (n,).
        v: clusters of v, shape (m,).
        count: how many clusters there are.
    """

    u: Tensor
    v: Tensor
    count: int

    @classmethod
    def of(cls, labels: ClusterLabels, n: int, m: int, *, paired: bool) -> Clusters:
        """Number the labels of n and m samples.

        Args:
            labels: for paired samples one array-like of n labels (numbers or strings); otherwise a tuple of
                two, of n and m labels. Equal labels are one cluster, also across the sides. None: each pair,
                or each sample, is its own cluster.
            n: samples in u.
            m: samples in v.
            paired: whether u_i and v_i belong together.

        Raises:
            ValueError: the wrong number of labels, or fewer than two clusters.
        """
        if labels is None:
            return cls.singletons(n, m, paired=paired)
        sides = (labels, labels) if paired else labels
        if not isinstance(sides, tuple) or len(sides) != 2:
            raise ValueError("clusters of unpaired samples must be a tuple of labels (of u, of v)")
        u_labels, v_labels = (np.asarray(torch.as_tensor(x) if isinstance(x, Tensor) else x) for x in sides)
        if u_labels.shape != (n,) or v_labels.shape != (m,):
            raise ValueError(
                f"clusters must hold one label per sample, {n} and {m}, got {u_labels.shape} and {v_labels.shape}"
            )
        names, numbers = np.unique(np.concatenate([u_labels, v_labels]), return_inverse=True)
        if names.size < 2:
            raise ValueError(f"clusters must hold at least two different labels, got {names.size}")
        index = torch.from_numpy(numbers.astype(np.int64))
        return cls(index[:n], index[n:], int(names.size))

    @classmethod
    def singletons(cls, n: int, m: int, *, paired: bool) -> Clusters:
        """Each pair its own cluster, or each sample."""
        u = torch.arange(n)
        return cls(u, u, n) if paired else cls(u, n + torch.arange(m), n + m)

    def standard_error(self, on_u: Tensor, on_v: Tensor) -> Tensor:
        """Standard error of a statistic from the centred influences of its samples, summed within clusters.

        Args:
            on_u: influences of u, float64, shape (..., n).
            on_v: influences of v, float64, shape (..., m).

        Returns:
            Standard errors, shape (...).
        """
        total = torch.zeros(*on_u.shape[:-1], self.count, dtype=torch.float64)
        total.index_add_(-1, self.u, on_u / on_u.shape[-1]).index_add_(-1, self.v, on_v / on_v.shape[-1])
        return (total.square().sum(-1) * self.count / (self.count - 1)).sqrt()

    def resample(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Clusters]:
        """Draw as many clusters with replacement; samples of u and of v drawn, and their clusters."""
        drawn = torch.randint(self.count, (self.count,), generator=generator)
        i, i_cluster = _members(self.u, drawn, self.count)
        j, j_cluster = _members(self.v, drawn, self.count)
        return i, j, Clusters(i_cluster, j_cluster, self.count)


def _members(cluster: Tensor, drawn: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Samples of the drawn clusters, and which draw each of them belongs to."""
    order = cluster.argsort(stable=True)
    sizes = torch.bincount(cluster, minlength=count)
    starts = sizes.cumsum(0) - sizes
    draw = torch.arange(count).repeat_interleave(sizes[drawn])
    first = (sizes[drawn].cumsum(0) - sizes[drawn])[draw]
    return order[starts[drawn][draw] + torch.arange(draw.numel()) - first], draw
