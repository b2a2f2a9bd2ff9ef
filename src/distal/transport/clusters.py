"""Samples that belong together, such as several pairs of one prompt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distal.transport.influence import Side

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
            TypeError: labels that are not all numbers or all strings.
        """
        if labels is None:
            return cls.singletons(n, m, paired=paired)
        sides = (labels, labels) if paired else labels
        if not isinstance(sides, tuple) or len(sides) != 2:
            raise ValueError("clusters of unpaired samples must be a tuple of labels (of u, of v)")
        u_labels, v_labels = (_as_labels(x) for x in sides)
        if u_labels.shape != (n,) or v_labels.shape != (m,):
            raise ValueError(
                f"clusters must hold one label per sample, {n} and {m}, got {u_labels.shape} and {v_labels.shape}"
            )
        if (u_labels.dtype.kind in "US") != (v_labels.dtype.kind in "US"):
            raise TypeError("clusters must be all numbers or all strings, got numbers on one side only")
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

    def covariance(self, one: Side, two: Side) -> Tensor:
        """Covariance of two statistics from the centred influences of their samples, summed within clusters.

        Args:
            one: a statistic with its influences, shapes (..., n) and (..., m).
            two: another one, or the same for its variance.

        Returns:
            Covariances, shape (...).
        """
        product = self._totals(one) * self._totals(two)
        return product.sum(-1) * self.count / (self.count - 1)

    def _totals(self, side: Side) -> Tensor:
        """What each cluster adds to the statistic, shape (..., count)."""
        on_u, on_v = side.on_u / side.on_u.shape[-1], side.on_v / side.on_v.shape[-1]
        total = torch.zeros(*on_u.shape[:-1], self.count, dtype=on_u.dtype)
        return total.index_add_(-1, self.u, on_u).index_add_(-1, self.v, on_v)

    def resample(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Clusters]:
        """Draw as many clusters with replacement; samples of u and of v drawn, and their clusters."""
        drawn = torch.randint(self.count, (self.count,), generator=generator)
        i, i_cluster = _members(self.u, drawn, self.count)
        j, j_cluster = _members(self.v, drawn, self.count)
        return i, j, Clusters(i_cluster, j_cluster, self.count)


def _as_labels(x: object) -> np.ndarray:
    labels = np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x)
    if labels.dtype.kind not in "biufUS":
        raise TypeError(f"clusters must be all numbers or all strings, got {labels.dtype}")
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise ValueError(f"clusters holds {int(np.isnan(labels).sum())} labels that are NaN")
    return labels


def _members(cluster: Tensor, drawn: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Samples of the drawn clusters, and which draw each of them belongs to."""
    order = cluster.argsort(stable=True)
    sizes = torch.bincount(cluster, minlength=count)
    starts = sizes.cumsum(0) - sizes
    draw = torch.arange(count).repeat_interleave(sizes[drawn])
    first = (sizes[drawn].cumsum(0) - sizes[drawn])[draw]
    return order[starts[drawn][draw] + torch.arange(draw.numel()) - first], draw
