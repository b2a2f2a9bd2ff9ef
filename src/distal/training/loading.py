"""Reading optimizer batches: data loaders over a sampler that knows ranks and epochs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from torch.utils.data import DataLoader, Dataset

from distal.data import OptimizerBatchSampler, TokenizedPreferences
from distal.types import TokenRow

if TYPE_CHECKING:
    from distal.training.config import AlignmentConfig

__all__ = ["LateRows", "StepLoader", "worker_options"]


def worker_options(args: AlignmentConfig) -> dict[str, Any]:
    """What a loader is told of the processes that read for it."""
    if not args.dataloader_num_workers:
        return {}
    return {
        "num_workers": args.dataloader_num_workers,
        "prefetch_factor": args.dataloader_prefetch_factor,
        "persistent_workers": args.dataloader_persistent_workers,
        # Early versions of transformers 5 do not know it.
        "multiprocessing_context": getattr(args, "dataloader_multiprocessing_context", None),
    }


class StepLoader(DataLoader[Any]):
    """A loader over optimizer batches that passes the epoch on to its sampler."""

    def set_epoch(self, epoch: int) -> None:
        """Tell the sampler which epoch begins."""
        cast(OptimizerBatchSampler, self.batch_sampler).set_epoch(epoch)


class LateRows(Dataset[list[TokenRow]]):
    """A data set that is asked for when rows are read, for loaders made before reference scores are known."""

    def __init__(self, current: Callable[[], TokenizedPreferences]) -> None:
        self._current = current

    def __len__(self) -> int:
        return len(self._current())

    def __getitem__(self, index: int) -> list[TokenRow]:
        return self._current()[index]
