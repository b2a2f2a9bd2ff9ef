"""Gradients of single sort units by the matrices of a LoRA adapter, from one backward pass over many units.

For a linear layer y = x W^T the gradient of a sum of scores splits by the positions t that the scores stand at,

    d(sum_u s_u)/dW = sum_u G_u,        G_u = sum_{t in unit u} g_t^T x_t,        g_t = d(sum_u s_u)/dy_t,

because the score of one unit does not depend on the positions of another. So a backward pass with coefficient 1 has
all G_u at hand, and keeping them apart costs a batched matrix product where the layer would do one. Nothing else of
the model needs to be known: LoRA matrices are small, so G_u is, and the frozen weights have no gradient.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distal.errors import ModelError
from distal.scoring import PADDED, Layout
from distal.scoring.compilation import has_compiled_blocks
from distal.types import TokenRow

__all__ = ["UnitGradients", "adapter_matrices"]


def adapter_matrices(model: nn.Module) -> list[nn.Linear]:
    """The linear layers that hold everything which is trained in a model with a LoRA adapter.

    Raises:
        ModelError: something is trained that is no LoRA matrix, which the message names; or blocks are compiled.
    """
    from peft.tuners.lora import LoraLayer

    if has_compiled_blocks(model):
        raise ModelError("gradients of single units cannot be kept, since compiled blocks hide their layers")
    trained = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    found: list[nn.Linear] = []
    for layer in model.modules():
        if not isinstance(layer, LoraLayer):
            continue
        for adapter in layer.active_adapters:
            # Variants such as DoRA read the matrices past their layers.
            if adapter in getattr(layer, "lora_variant", {}):
                continue
            pair = [matrices[adapter] for matrices in (layer.lora_A, layer.lora_B) if adapter in matrices]
            found += [m for m in pair if type(m) is nn.Linear and m.weight.requires_grad]
    kept = {id(p) for linear in found for p in linear.parameters()}
    others = [name for number, name in trained.items() if number not in kept]
    if others or not found:
        what = f"{others[0]} is trained" if others else "the model has no LoRA adapter to train"
        raise ModelError(
            f"gradients of single units are kept for plain LoRA matrices of linear layers only, but {what}"
            + (f" (and {len(others) - 1} more parameters)" if len(others) > 1 else "")
        )
    return found


@dataclass
class _Group:
    """Where the units of the micro-batch under way stand."""

    first: int
    n_places: list[int]  # token places of each unit, padding included; one unit after the other
    n_predictions: list[int]  # scored completion tokens of each unit
    written: set[int] = field(default_factory=set[int])

    @classmethod
    def of(cls, first: int, rows: Sequence[TokenRow], rows_per_unit: int, layout: Layout) -> _Group:
        """The units that these rows form."""
        starts = range(0, len(rows), rows_per_unit)
        predictions = [sum(row.scored_length for row in rows[i : i + rows_per_unit]) for i in starts]
        return cls(first, layout.unit_places(rows, rows_per_unit), predictions)

    @property
    def n_units(self) -> int:
        """How many there are."""
        return len(self.n_places)

    def by_unit(self, x: Tensor) -> Tensor:
        """(units, positions, features) of what a layer saw: all positions, or those before completion tokens."""
        flat = x.reshape(-1, x.shape[-1])
        # A prompt has at least one token, so that a micro-batch has more places than completion tokens.
        for of_each_unit in (self.n_places, self.n_predictions):
            if flat.shape[0] == sum(of_each_unit):
                return nn.utils.rnn.pad_sequence(list(flat.split(of_each_unit)), batch_first=True)
        raise ModelError(
            f"a LoRA layer received values of shape {tuple(x.shape)} for {self.n_units} units of together "
            f"{sum(self.n_places)} positions, and they cannot be told apart by unit. Use strategy: recompute."
        )


class UnitGradients:
    """A buffer of one adapter gradient per unit, filled by backward passes and combined afterwards.

    Args:
        matrices: from `adapter_matrices`.
        capacity: units that the buffer holds.
        dtype: what they are stored in; sums are in float32 (float64 for a float64 adapter).
    """

    def __init__(
        self, matrices: Sequence[nn.Linear], capacity: int, dtype: torch.dtype | None = None
    ) -> None:
        self.matrices = list(matrices)
        self.capacity = capacity
        parameters = [p for linear in self.matrices for p in linear.parameters()]
        self.parameters = list({id(p): p for p in parameters if p.requires_grad}.values())
        self._slices: dict[int, slice] = {}
        start = 0
        for p in self.parameters:
            self._slices[id(p)] = slice(start, start + p.numel())
            start += p.numel()
        first = self.parameters[0]
        store = first.dtype if dtype is None or first.dtype == torch.float64 else dtype
        self.buffer = torch.empty(capacity, start, dtype=store, device=first.device)
        self.used = 0
        # Outputs must carry a graph even where nothing before the first adapter does.
        self._anchor = torch.zeros((), device=first.device, requires_grad=True)

    @property
    def bytes(self) -> int:
        """What the buffer takes."""
        return self.buffer.numel() * self.buffer.element_size()

    @staticmethod
    def bytes_per_unit(matrices: Sequence[nn.Linear], dtype: torch.dtype | None) -> int:
        """What one unit takes in the buffer."""
        return sum(
            p.numel() * (dtype or p.dtype).itemsize
            for linear in matrices
            for p in linear.parameters()
            if p.requires_grad
        )

    @contextmanager
    def record(
        self, rows: Sequence[TokenRow], rows_per_unit: int, layout: Layout = PADDED
    ) -> Generator[None]:
        """While open, backward passes write each unit's gradient into the buffer, and none into `.grad`.

        Args:
            rows: of one micro-batch, unit by unit, in the order of the forward pass.
            rows_per_unit: 2 to keep one gradient for a pair, 1 for one per row.
            layout: of the forward pass; one in which units have no place in common.
        """
        group = _Group.of(self.used, rows, rows_per_unit, layout)
        if self.used + group.n_units > self.capacity:
            raise ValueError(f"a buffer of {self.capacity} units cannot take {self.used + group.n_units}")
        before = [vars(linear).get("forward") for linear in self.matrices]
        for linear in self.matrices:
            # An instance attribute goes before the class's method, and hooks of the layer keep working.
            vars(linear)["forward"] = partial(self._forward, linear, group)
        try:
            yield
        finally:
            for linear, own in zip(self.matrices, before, strict=True):
                del vars(linear)["forward"]
                if own is not None:
                    vars(linear)["forward"] = own
        missing = [p for p in self.parameters if id(p) not in group.written]
        for p in missing:  # a layer that took no part has no gradient
            self._region(p, group).zero_()
        self.used += group.n_units

    def combine(self, weights: Tensor) -> None:
        """Add `sum_u w_u G_u` to `.grad`, and empty the buffer.

        Args:
            weights: (used,) coefficient of each recorded unit, in the order of recording.
        """
        wide = torch.float64 if self.buffer.dtype == torch.float64 else torch.float32
        weights = weights.to(self.buffer.device, wide)
        for p in self.parameters:
            stored = self.buffer[: self.used, self._slices[id(p)]]
            # One unit after the other in a narrow type, so that no wide copy of the buffer is made.
            total = weights @ stored if stored.dtype == wide else _weighted_sum(weights, stored, wide)
            gradient = total.view_as(p).to(p.dtype)
            p.grad = gradient if p.grad is None else p.grad.add_(gradient)
        self.used = 0

    def _forward(self, linear: nn.Linear, group: _Group, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return F.linear(x, linear.weight, linear.bias)
        weight, bias = linear.weight.detach(), _bias(linear)
        if torch.is_autocast_enabled(x.device.type):
            narrow = torch.get_autocast_dtype(x.device.type)
            x, weight = x.to(narrow), weight.to(narrow)
            bias = None if bias is None else bias.to(narrow)
        return cast(
            Tensor, _UnitLinear.apply(x, weight, bias, self._anchor, partial(self._keep, linear, group))
        )

    def _keep(self, linear: nn.Linear, group: _Group, x: Tensor, g: Tensor) -> None:
        """Store the units' gradients of one layer, from its input and the gradient of its output."""
        by_unit = group.by_unit(g).transpose(1, 2)
        self._write(linear.weight, group, torch.bmm(by_unit, group.by_unit(x)))
        bias = _bias(linear)
        if bias is not None and linear.bias.requires_grad:
            self._write(linear.bias, group, by_unit.sum(2))

    def _write(self, p: Tensor, group: _Group, gradients: Tensor) -> None:
        region, flat = self._region(p, group), gradients.flatten(1)
        if id(p) in group.written:
            region.add_(flat)
        else:
            region.copy_(flat)
            group.written.add(id(p))

    def _region(self, p: Tensor, group: _Group) -> Tensor:
        return self.buffer[group.first : group.first + group.n_units, self._slices[id(p)]]


def _bias(linear: nn.Linear) -> Tensor | None:
    bias = cast("Tensor | None", linear.bias)
    return None if bias is None else bias.detach()


def _weighted_sum(weights: Tensor, stored: Tensor, wide: torch.dtype) -> Tensor:
    total = torch.zeros(stored.shape[1], dtype=wide, device=stored.device)
    for weight, row in zip(weights, stored, strict=True):
        total.addcmul_(weight, row.to(wide))
    return total


class _UnitLinear(torch.autograd.Function):
    """`x W^T + b` whose backward pass hands (x, g) over instead of forming the gradient of W."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, anchor: Tensor, keep: Any
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.keep = keep
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (g,) = grad_outputs
        x, weight = ctx.saved_tensors
        ctx.keep(x, g)
        return g @ weight if ctx.needs_input_grad[0] else None, None, None, None, None
