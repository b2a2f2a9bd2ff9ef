"""What Distal adds to the state in a checkpoint: running laws of the rewards, and the strategy at work."""

from __future__ import annotations

from typing import Any

from distal.scoring import Layout
from distal.training.guarding import GuardedTrainer
from distal.training.strategies import Choice
from distal.training.stream import OrderStatistics

__all__ = ["StatefulTrainer"]


class StatefulTrainer(GuardedTrainer):
    """A trainer whose checkpoints hold everything that its next steps depend on.

    Attributes:
        earlier_choice: the strategy that the run had settled on when its checkpoint was made; None from the start.
    """

    earlier_choice: Choice | None = None

    @property
    def order_statistics(self) -> OrderStatistics | None:
        """The running laws under `order_statistics: stream`, None otherwise."""
        raise NotImplementedError

    @property
    def layout(self) -> Layout:
        """How rows are laid out."""
        raise NotImplementedError

    def strategy_basis(self) -> dict[str, Any]:
        """Options that say how large graphs and unit gradients are, in a form for JSON."""
        args = self.args
        return {
            "micro_batch_size": args.micro_batch_limit.units,
            "tokens_per_micro_batch": args.micro_batch_limit.tokens,
            "layout": self.layout.name,
            "deferred_dtype": args.deferred_dtype,
            "gradient_checkpointing": bool(
                args.gradient_checkpointing or getattr(args, "activation_checkpointing", False)
            ),
            "processes": args.world_size,
            **({"compile_blocks": args.compile_backend or True} if args.compile_blocks else {}),
        }

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if not self.args.should_save:
            return
        if self.order_statistics is not None:
            self.order_statistics.save(output_dir)
        choice = self.engine.settled()
        if choice is not None:
            choice.save(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        self.earlier_choice = None if checkpoint is None else Choice.load(checkpoint)
        if self.order_statistics is not None and checkpoint is not None:
            self.order_statistics.load(checkpoint)
