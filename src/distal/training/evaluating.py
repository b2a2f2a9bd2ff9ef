"""The Trainer's evaluation: the whole set at once, its scores kept for who wants to say more of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from torch import nn
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput, SaveStrategy

from distal.data import TokenizedPreferences
from distal.errors import ConfigError
from distal.objectives import Objective
from distal.training.averaging import AveragingTrainer
from distal.training.best import may_be_best
from distal.training.evaluation import Evaluation, evaluate_whole_set
from distal.training.laying_out import LayoutTrainer
from distal.training.samples import SampleCallback, SampleSettings
from distal.types import TokenRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["EvaluatingTrainer"]


class EvaluatingTrainer(LayoutTrainer, AveragingTrainer):
    """A trainer that evaluates whole sets and chooses the best checkpoint by what is defined.

    Attributes:
        evaluations: the last evaluation of each set, by the prefix of its metrics (`eval`, or `eval_NAME`).
    """

    objective: Objective
    evaluations: Mapping[str, Evaluation]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.evaluations = {}
        super().__init__(*args, **kwargs)

    def with_reference(self, dataset: Any, name: str) -> TokenizedPreferences:
        """The data set with the scores of the reference."""
        raise NotImplementedError

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Called by `evaluate` with the loader from `get_eval_dataloader`."""
        self.show_averaged_weights()
        dataset = self.with_reference(dataloader.dataset, metric_key_prefix)
        found = evaluate_whole_set(
            cast(nn.Module, self.model),
            dataset,
            self.objective,
            tokens_per_batch=self.args.reference_tokens_per_batch,
            layout=self.layout,
            autocast_dtype=self.args.autocast_dtype,
            progress=None if self.args.disable_tqdm else description.lower(),
        )
        self.evaluations = {**self.evaluations, metric_key_prefix: found}
        named = {f"{metric_key_prefix}_{name}": value for name, value in found.metrics.items()}
        return EvalLoopOutput(
            predictions=cast(Any, None), label_ids=None, metrics=named, num_samples=len(dataset)
        )

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Not meaningful for preferences: there are no predictions, only scores."""
        raise ConfigError("predict: use distal.scoring.score_dataset for scores, or evaluate() for metrics")

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Whether this evaluation is the best so far; undefined ones never are."""
        args = self.args
        if args.metric_for_best_model is None:
            return super()._determine_best_metric(metrics, trial)
        undefined = [f"{prefix}_{name}" for prefix, one in self.evaluations.items() for name in one.undefined]
        if not may_be_best(args.metric_for_best_model, metrics, undefined):
            return False
        # Of a step without a checkpoint nothing could be loaded.
        kept = args.save_strategy == SaveStrategy.BEST or self.control.should_save
        if args.load_best_model_at_end and not kept:
            return False
        return super()._determine_best_metric(metrics, trial)

    def sample_on_the_way(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        """Add the callback that lets the policy answer a few prompts at every evaluation, if it is asked for.

        Raises:
            ConfigError: there is no tokenizer, or there are no prompts.
        """
        args = self.args
        if not args.sample_prompts:
            return
        if tokenizer is None:
            raise ConfigError("sample_prompts: a tokenizer is needed to write answers; give processing_class")
        sets: Any = self.eval_dataset
        if isinstance(sets, Mapping) and not isinstance(sets, TokenizedPreferences):
            sets = next(iter(cast(Mapping[str, Any], sets).values()), None)
        if sets is None:
            raise ConfigError("sample_prompts: its prompts come from the evaluation data, and there are none")
        count = min(args.sample_prompts, len(sets))
        rows: list[TokenRow] = [sets[i * len(sets) // count][0] for i in range(count)]
        settings = SampleSettings(
            new_tokens=args.sample_new_tokens or 64,
            temperature=args.sample_temperature or 0.0,
            seed=args.seed,
            autocast_dtype=args.autocast_dtype,
        )
        self.add_callback(SampleCallback(rows, tokenizer, settings))
