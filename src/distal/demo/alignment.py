"""The demo's alignment: `aot_unpaired` with `AlignmentTrainer`, from files that `distal align` can read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import LlamaForCausalLM, PrinterCallback, ProgressCallback
from transformers.integrations import TensorBoardCallback

from distal.data import TokenizedPreferences
from distal.evaluation import DominanceCertificate, evaluate_dominance
from distal.scoring import score_dataset
from distal.training import AlignmentConfig, AlignmentTrainer
from distal.workflow.environment import package_versions
from distal.workflow.model_card import CardFacts, model_card
from distal.workflow.options import AlignOptions, DataOptions, ModelOptions
from distal.workflow.preparation import prepared_data, prepared_tokenizer, report_lines
from distal.workflow.resolve import resolved_yaml

__all__ = ["AlignmentScale", "Aligned", "align_demo"]


@dataclass(frozen=True, slots=True)
class AlignmentScale:
    """Settings of the alignment.

    Attributes:
        epochs: passes over the training snippets.
        batch: snippets of both labels together in an optimizer step; sorted together.
        learning_rate: peak.
        beta: slope of the logistic cost, 1/nats.
        resamples: bootstrap resamples of the certificates.
    """

    epochs: float = 1.0
    batch: int = 128
    learning_rate: float = 1.5e-4
    beta: float = 0.1
    resamples: int = 1000


@dataclass(frozen=True, slots=True)
class Aligned:
    """What the alignment made.

    Attributes:
        model: the aligned model.
        before: certificate of the held-out snippets before the first step: undefined, all rewards are zero.
        after: the same after the last.
    """

    model: LlamaForCausalLM
    before: DominanceCertificate
    after: DominanceCertificate


class _Bar(ProgressCallback):
    """The Trainer's progress bar, without a line for every log entry (they go to TensorBoard)."""

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Prints nothing."""


def align_demo(folder: Path, scale: AlignmentScale, *, seed: int) -> Aligned:
    """Aligns the model in `folder/reference` with `folder/data/train.jsonl`; writes `folder/aligned`.

    Args:
        folder: of the demo; holds `reference`, `data/train.jsonl` and `data/held_out.jsonl`.
        scale: settings.
        seed: of the order of the snippets and of the bootstrap.
    """
    options = _options(folder, scale, seed)
    tokenizer = prepared_tokenizer(options.model)
    reference = LlamaForCausalLM.from_pretrained(options.model.model)
    policy = LlamaForCausalLM.from_pretrained(options.model.model)
    train, held_out = (
        _scored(reference, part, name)
        for part, name in zip(
            prepared_data(options.data, options.training, tokenizer), ("training", "held-out"), strict=True
        )
    )
    certify: dict[str, Any] = {"seed": seed, "resamples": scale.resamples, "progress": False}
    before = evaluate_dominance(policy, None, held_out, **certify)
    trainer = AlignmentTrainer(
        policy,
        reference,
        options.training,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
        callbacks=[_Bar(), _tensorboard(folder / "tensorboard")],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    after = evaluate_dominance(policy, None, held_out, **certify)
    policy.config.use_cache = True  # off during training only
    trainer.save_model(str(folder / "aligned"))
    facts = CardFacts(
        certificate=after,
        data_lines=report_lines(train, held_out),
        steps=trainer.state.global_step,
        n_train=len(train),
        n_eval=len(held_out),
        versions=package_versions(),
    )
    (folder / "aligned" / "README.md").write_text(model_card(options, facts), encoding="utf-8")
    (folder / "align.yaml").write_text(resolved_yaml(options), encoding="utf-8")
    return Aligned(policy.eval(), before, after)


def _options(folder: Path, scale: AlignmentScale, seed: int) -> AlignOptions:
    """What `distal align` would be told to do the same."""
    return AlignOptions(
        model=ModelOptions(model=str(folder / "reference")),
        data=DataOptions(
            data=str(folder / "data" / "train.jsonl"), eval_data=str(folder / "data" / "held_out.jsonl")
        ),
        training=AlignmentConfig(
            output_dir=str(folder / "aligned"),
            objective="aot_unpaired",
            beta=scale.beta,
            global_batch_size=scale.batch,
            num_train_epochs=scale.epochs,
            learning_rate=scale.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            max_length=256,
            tokens_per_micro_batch=16384,  # the whole batch in one pass: it is small
            seed=seed,
            logging_steps=1,
            eval_strategy="steps",
            eval_steps=0.25,
            save_strategy="no",
            report_to="none",  # the demo brings its own TensorBoard writer and progress bar
            disable_tqdm=True,
            use_cpu=True,
        ),
    )


def _scored(reference: LlamaForCausalLM, data: TokenizedPreferences, name: str) -> TokenizedPreferences:
    return data.with_reference_scores(
        score_dataset(reference, data, progress=f"scoring the {name} snippets under the reference")
    )


def _tensorboard(folder: Path) -> TensorBoardCallback:
    from torch.utils.tensorboard import SummaryWriter

    return TensorBoardCallback(SummaryWriter(log_dir=str(folder)))
