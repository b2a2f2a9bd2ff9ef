"""The Trainer's layout: chosen once for policy and reference together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distal.scoring import FrozenModel, Layout, Reference, choose_layout
from distal.scoring.compilation import DEFAULT_BACKEND, compile_blocks
from distal.training.counting import RowCountingTrainer

if TYPE_CHECKING:
    from distal.training.config import AlignmentConfig

__all__ = ["LayoutTrainer"]


class LayoutTrainer(RowCountingTrainer):
    """A trainer that lays rows out in one way wherever they are scored."""

    args: AlignmentConfig
    reference: Reference
    _layout: Layout | None = None

    @property
    def layout(self) -> Layout:
        """How rows are laid out, for training, reference and evaluation alike.

        Chosen by a trial when it is first asked for; all ranks must ask together. With `compile_blocks` the models'
        blocks are compiled then.
        """
        if self._layout is None:
            models: list[Any] = [self.model]
            if isinstance(self.reference, FrozenModel):
                models.append(self.reference.model)
            # Compiled layers want the same shapes in every step, and the model is compiled after this trial.
            name = "padded" if self.args.torch_compile and self.args.layout == "auto" else self.args.layout
            self._layout = choose_layout(name, models, autocast_dtype=self.args.autocast_dtype)
            if self.args.compile_blocks:
                compile_blocks(
                    models,
                    self._layout,
                    backend=self.args.compile_backend or DEFAULT_BACKEND,
                    autocast_dtype=self.args.autocast_dtype,
                )
        return self._layout
