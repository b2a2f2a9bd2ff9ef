"""`AlignmentTrainer`: the whole-batch engine inside `transformers.Trainer`.

The Trainer sees one batch per optimizer step, so its loop, callbacks, checkpoints, launchers and loggers work
unchanged; everything between two optimizer steps happens in `training_step`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, TrainerCallback, set_seed
from transformers.trainer_utils import TrainOutput

from distal.data import OptimizerBatchSampler, TokenizedPreferences, collate_units, prepare_dataset
from distal.errors import ConfigError
from distal.scoring import (
    AdapterSnapshot,
    FrozenModel,
    choose_reference,
    reference_scores,
    weights_fingerprint,
)
from distal.scoring.quantization import move
from distal.training.config import AlignmentConfig
from distal.training.engine import WholeBatchEngine
from distal.training.evaluating import EvaluatingTrainer
from distal.training.exchange import GradientExchange, gradient_exchange
from distal.training.guards import check_initial_policy
from distal.training.launch import check_launch, check_models, is_prepared, prepared_later
from distal.training.loading import LateRows, StepLoader, worker_options
from distal.training.models import has_dropout, policy_and_reference
from distal.training.option_checks import check_data_kind
from distal.training.own_state import StatefulTrainer
from distal.training.resumption import RunIdentity
from distal.training.stream import OrderStatistics, initial_statistics
from distal.training.weighting import weighted_as_set

__all__ = ["AlignmentTrainer"]

logger = logging.getLogger(__name__)


class AlignmentTrainer(EvaluatingTrainer, StatefulTrainer):
    """Aligns a causal language model with preferences; see `AlignmentConfig` for the objective and its options.

    Args:
        model: a causal language model, a PEFT model, a local folder or a hub id.
        ref_model: the reference, likewise; None for the policy's own start (with PEFT: adapters off, or a frozen
            copy of the adapter that the model came with), which needs no second model in memory.
        args: the settings; None for `AlignmentConfig()`.
        train_dataset: `TokenizedPreferences`, or anything that `distal.data.prepare_dataset` takes: a `datasets`
            data set, a path, a hub id or a list of rows with TRL's columns.
        eval_dataset: likewise, or a dict of them by name. Always evaluated whole.
        processing_class: the tokenizer.
        peft_config: creates a new adapter and trains only that.
        callbacks: `transformers.TrainerCallback`s.
        optimizers: optimizer and scheduler, as in `Trainer`.

    Raises:
        ConfigError, DataError, ModelError: what is wrong, and how to mend it.
        ReferenceMismatchError: before the first step, policy and reference disagree where they must coincide.
        NonFiniteError: a score, loss or gradient is NaN or infinite; raised before the optimizer step.
    """

    args: AlignmentConfig

    def __init__(  # noqa: PLR0913 - the signature that users of TRL know
        self,
        model: str | Path | nn.Module,
        ref_model: str | Path | nn.Module | None = None,
        args: AlignmentConfig | None = None,
        *,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
    ) -> None:
        args = args if args is not None else AlignmentConfig()
        if not isinstance(args, AlignmentConfig):  # pyright: ignore[reportUnnecessaryIsInstance] - users' mistakes
            raise ConfigError(f"args: expected an AlignmentConfig, got {type(args).__name__}")
        set_seed(args.seed)  # a new adapter is drawn at random
        policy, frozen = policy_and_reference(
            model, ref_model, peft_config, without_dropout=args.disable_dropout
        )
        self.objective = args.build_objective()
        self._metrics: dict[str, list[float]] = {}
        super().__init__(
            model=policy,
            args=args,
            data_collator=cast(Any, collate_units),
            train_dataset=self._prepare(train_dataset, "train", args, processing_class),
            eval_dataset=self._prepare(eval_dataset, "eval", args, processing_class),
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        check_launch(self.accelerator, args)
        if frozen is not None and self.place_model_on_device:
            move(frozen, args.device)
        self.reference = choose_reference(self._policy, frozen, new_adapter=peft_config is not None)
        check_models(self.accelerator, self._policy, self.reference)
        self._engine: WholeBatchEngine | None = None
        self._exchange: GradientExchange | None = None
        self._started = False
        self._statistics: OrderStatistics | None = None
        self._reference_weights: str | None = None
        self._checkpoint: Path | None = None
        self._identity: RunIdentity | None = None
        self.watch(self.objective, self._train_data)
        self.sample_on_the_way(processing_class)

    @property
    def _policy(self) -> nn.Module:
        return cast(nn.Module, self.model)

    # ------------------------------------------------------------------ data

    def _prepare(
        self, data: Any, name: str, args: AlignmentConfig, tokenizer: PreTrainedTokenizerBase | None
    ) -> Any:
        """Tokenise whatever the user gave; refuse a kind of data that the objective cannot use."""
        if data is None:
            return None
        if isinstance(data, Mapping) and not isinstance(data, TokenizedPreferences):
            return {
                key: self._prepare(value, f"{name} {key}", args, tokenizer) for key, value in data.items()
            }
        if not isinstance(data, TokenizedPreferences):
            if tokenizer is None:
                raise ConfigError(f"processing_class: a tokenizer is needed to tokenise the {name} data")
            data = prepare_dataset(
                data,
                tokenizer,
                max_length=args.max_length,
                truncation=args.truncation,
                on_bad_rows=args.on_bad_rows,
                num_proc=args.dataset_num_proc,
                name=name,
                cache_dir=args.row_cache_dir,
                loss_on=args.loss_on,
            )
        check_data_kind(self.objective, data.kind, name)
        return weighted_as_set(data, args, self.objective, name)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """One item per optimizer step: this rank's rows of the optimizer batch."""
        sampler = self._sampler()
        sampler.set_epoch(self.first_epoch(len(sampler)))
        sampler.exhausted = self.no_steps_left(len(sampler))
        rows: Any = LateRows(self._train_data) if prepared_later(self.accelerator) else self._train_data()
        # Rows are small: no pinning, and accelerate need not see a loader that already knows ranks and devices.
        return StepLoader(
            rows,
            batch_sampler=sampler,
            collate_fn=collate_units,
            **worker_options(self.args),
        )

    def _sampler(self) -> OptimizerBatchSampler:
        return OptimizerBatchSampler(
            self._train_data(),
            self.args.global_batch_size,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            rank=self.args.process_index,
            world_size=self.args.world_size,
            drop_last=self.args.dataloader_drop_last,
        )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """A loader whose data set `evaluation_loop` scores whole."""
        named = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(named, str) and isinstance(self.eval_dataset, Mapping):
            named = self.eval_dataset[named]
        if named is None:
            raise ConfigError("eval_dataset: evaluate() needs one")
        tokenizer: Any = self.processing_class
        dataset = self._prepare(named, "eval", self.args, tokenizer)
        return DataLoader(dataset, batch_size=1, collate_fn=collate_units)

    def _train_data(self) -> TokenizedPreferences:
        dataset: Any = self.train_dataset
        if dataset is None:
            raise ConfigError("train_dataset: train() needs one")
        return dataset

    # -------------------------------------------------------------- training

    def train(  # pyright: ignore[reportIncompatibleMethodOverride] - the rest is passed on
        self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any
    ) -> TrainOutput:
        """Score the reference, check the start, then train.

        Args:
            resume_from_checkpoint: a checkpoint, or True for the last usable one in `output_dir`.
            kwargs: as in `Trainer.train`.

        Raises:
            OutputError: there is no usable checkpoint.
            ConfigError: the checkpoint belongs to another run; the message lists what differs.
        """
        self._checkpoint = self.prepare_folder(resume_from_checkpoint)
        if self._reference_weights is None and not self._train_data().has_reference_scores:
            self._reference_weights = self.reference.fingerprint()  # while the weights are whole
        self._identity = self._run_identity()
        if self._checkpoint is not None:
            self.refuse_other_run(self._identity, self._checkpoint)  # before scores that may take hours
        self._engine = self._exchange = None  # accelerate prepares the model anew
        self.earlier_choice = None
        self._started = False
        if not prepared_later(self.accelerator):
            self._start()  # otherwise `create_scheduler` does, when the weights are shared out
        resumed = None if self._checkpoint is None else str(self._checkpoint)
        output = super().train(resume_from_checkpoint=resumed, **kwargs)
        self.show_averaged_weights()  # they are the result
        return output

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The Trainer calls this when the model is on its devices, and before it loads a checkpoint."""
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        late = prepared_later(self.accelerator) and not self._started
        if late and is_prepared(self.accelerator, self._policy):
            if isinstance(self.reference, AdapterSnapshot):
                self.reference.take()
            if isinstance(self.reference, FrozenModel):
                self.reference.model.to(self.args.device)
            self._start()
            if isinstance(self.reference, FrozenModel):
                self.reference.model.to("cpu")
        return scheduler

    def _start(self) -> None:
        """What needs the policy as it is before the first step."""
        self._started = True
        self._score_references()
        self.begin_run(self._identity or self._run_identity(), self._checkpoint)
        if self.state.global_step == 0:
            self._check_start()
        self._reference_leaves()

    def _run_identity(self) -> RunIdentity:
        """What this run is, so that its checkpoints are not mistaken for those of another; the same on every rank."""
        adapted = hasattr(self._policy, "peft_config") and not self.reference.derived_from_policy
        return RunIdentity.of(
            self.args,
            self.objective,
            self._policy,
            self._train_data(),
            reference_weights=self._reference_weights,
            frozen_weights=weights_fingerprint(self._policy, with_adapters=False) if adapted else None,
            steps=self.total_steps(len(self._sampler())),
        ).of_first_rank()

    def _score_references(self) -> None:
        """Give every data set its reference scores, while the reference is still there to be asked."""
        self.train_dataset = self.with_reference(self._train_data(), "train")
        held_out: Any = self.eval_dataset
        if isinstance(held_out, Mapping):
            sets = cast(Mapping[str, Any], held_out)
            self.eval_dataset = {
                name: self.with_reference(data, f"eval {name}") for name, data in sets.items()
            }
        elif held_out is not None:
            self.eval_dataset = self.with_reference(held_out, "eval")

    def with_reference(self, dataset: Any, name: str) -> TokenizedPreferences:
        """The data set, scored under the reference if it is not yet."""
        if dataset.has_reference_scores:
            return dataset
        scores = reference_scores(
            self.reference,
            dataset,
            cache_dir=self.args.reference_cache_dir,
            tokens_per_batch=self.args.reference_tokens_per_batch,
            layout=self.layout,
            autocast_dtype=self.args.autocast_dtype,
            progress=None if self.args.disable_tqdm else f"reference scores ({name})",
            warn=logger.warning,
            shared=True,
        )
        return dataset.with_reference_scores(scores)

    def _check_start(self) -> None:
        comparable = self.reference.derived_from_policy and not has_dropout(self._policy)
        if self.args.check_initial_policy and comparable:
            check_initial_policy(self._policy, self._train_data(), self.args.autocast_dtype, self.layout)

    def _reference_leaves(self) -> None:
        """From here on the policy moves: a reference that is the initial policy cannot be asked again."""
        if hasattr(self.reference, "moved"):
            self.reference.moved = True  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def engine(self) -> WholeBatchEngine:
        """The engine that computes each step."""
        if self._engine is None:
            self._engine = WholeBatchEngine(
                self.objective,
                self._train_data().kind,
                self.args.micro_batch_limit,
                layout=self.layout,
                strategy=self.args.strategy,
                memory_budget=self.args.memory_budget,
                deferred_dtype=self.args.unit_gradient_dtype,
                autocast_dtype=self.args.autocast_dtype,
                world_size=self.args.world_size,
                sharded=self._launched.sharded,
                backward=self._launched.backward,
                no_sync=self._launched.no_sync,
                replay_rng=has_dropout(self._policy),
                statistics=self.order_statistics,
                earlier=self.earlier_choice,
                basis=self.strategy_basis(),
            )
        return self._engine

    @property
    def _launched(self) -> GradientExchange:
        if self._exchange is None:
            self._exchange = gradient_exchange(self.accelerator)
        return self._exchange

    @property
    def order_statistics(self) -> OrderStatistics | None:
        """The running laws under `order_statistics: stream`, None otherwise."""
        if self._statistics is None and self.args.order_statistics == "stream":
            assert self.args.stream_half_life is not None
            assert self.args.stream_capacity is not None
            self._statistics = initial_statistics(
                self.objective,
                self._train_data(),
                global_batch_size=self.args.global_batch_size,
                half_life=self.args.stream_half_life,
                capacity=self.args.stream_capacity,
            )
        return self._statistics

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One optimizer batch: its exact gradient into `.grad`, its loss returned."""
        model.train()
        optimizer: Any = self.optimizer
        if callable(getattr(optimizer, "train", None)):
            optimizer.train()  # schedule-free optimizers keep two sets of weights
        output = self.guarded_step(model, inputs)
        every = self.args.torch_empty_cache_steps
        if every is not None and self.state.global_step % every == 0:
            clear_device_cache()
        if not self._launched.finish():
            self.check_gradient(float("nan"))
        for name, value in output.metrics.items():
            self._metrics.setdefault(name, []).append(value)
        return output.loss.to(self.args.device, torch.float32)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of the step metrics since the last entry (they are equal on all ranks)."""
        if "loss" in logs:
            logs = {**logs, **{name: float(np.mean(values)) for name, values in self._metrics.items()}}
            self._metrics.clear()
        super().log(logs, start_time)
