"""The main job: a model and preferences in, an aligned model and the statement whether it dominates out."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PreTrainedTokenizerBase, set_seed
from transformers.trainer_utils import SaveStrategy
from transformers.utils.logging import disable_progress_bar

from distal.data import TokenizedPreferences
from distal.errors import ConfigError, DistalError, OutputError
from distal.evaluation import DominanceCertificate, evaluate_dominance
from distal.evaluation.on_the_way import EvaluationLog
from distal.report import certificate_table
from distal.report.figures import plot_reward_quantiles
from distal.report.loggers import FigureLogger
from distal.scoring.loading import check_vocabulary, load_model
from distal.scoring.partitioned import whole_shape
from distal.scoring.sharing import word_from_first_rank
from distal.training import AlignmentConfig, AlignmentTrainer, HealthSummary, health_summary
from distal.training.health import HEALTH_FILE
from distal.training.option_checks import check_data_kind
from distal.workflow.circumstances import check_circumstances
from distal.workflow.environment import package_versions
from distal.workflow.interrupt import InterruptGuard, RunInterrupted
from distal.workflow.model_card import CardFacts, model_card
from distal.workflow.notes import warnings_as_notes
from distal.workflow.options import AlignOptions, ModelOptions
from distal.workflow.preparation import check_enough, prepared_data, prepared_tokenizer, report_lines
from distal.workflow.resolve import differing_keys, resolve_options, resolved_yaml
from distal.workflow.run_folder import CONFIG_FILE, RunFolder, check_same_options
from distal.workflow.storage import bytes_needed, check_space, is_disk_full

__all__ = ["CERTIFICATE_FILE", "FIGURE_FILE", "AlignResult", "align", "ready"]

CERTIFICATE_FILE = "dominance.json"
FIGURE_FILE = "reward_quantiles.png"


@dataclass(frozen=True, kw_only=True)
class AlignResult:
    """What a finished run leaves.

    Attributes:
        output_dir: folder with the model, tokenizer, card, certificate and figure.
        certificate: whether held-out preferred rewards dominate.
        steps: optimizer steps taken, those before a resumption included.
        loss: mean training loss of the steps taken by this process; NaN where it took none.
        n_train: units trained on.
        n_eval: units held out.
        seconds: wall-clock time of this process, loading included.
        health: what the guards found; None where they were off.
    """

    output_dir: Path
    certificate: DominanceCertificate
    steps: int
    loss: float
    n_train: int
    n_eval: int
    seconds: float
    health: HealthSummary | None = None


def align(options: AlignOptions, *, console: Console | None = None) -> AlignResult:
    """Aligns a model as the options say, and writes everything into `output_dir`.

    Nothing is written before data and models have been loaded and checked; Ctrl-C ends the current step,
    saves a checkpoint and leaves a folder that `resume` goes on from.

    Args:
        options: model, data, adapter, training settings.
        console: where progress is told; None for silence (progress bars are governed by `disable_tqdm`).

    Returns:
        The result, also written to disk.

    Raises:
        DistalError: anything that the user can mend; earlier content of the folder stays unless `overwrite`.
        RunInterrupted: Ctrl-C; the message says how to go on.
    """
    start = time.monotonic()
    check_circumstances(options)
    main = options.training.process_index == 0
    if console is None or not main:
        console = Console(quiet=True)
    if not main:
        _be_quiet()
    resolved = resolved_yaml(options)  # before the trainer exists: it makes and drops a TrainingArguments
    folder = RunFolder(str(options.training.output_dir), main=main)
    with (
        warnings_as_notes(lambda line: _line(line, console)),
        _disk_full_named(folder.path),
        folder.claim(resume=options.resume, overwrite=options.overwrite),
    ):
        if options.resume and (folder.path / CONFIG_FILE).exists():  # it is written just after the state
            check_same_options(
                folder.path, differing_keys(options, resolve_options(folder.path / CONFIG_FILE, []))
            )
        trainer, lines = ready(options, console)
        folder.begin(resolved, command=options.command, versions=package_versions(), keep=options.resume)
        with _interruption_explained(folder):
            loss = _train(trainer, folder, options, console)
            certificate = _publish(trainer, folder, options, lines)
        result = AlignResult(
            output_dir=folder.path,
            certificate=certificate,
            steps=trainer.state.global_step,
            loss=loss,
            n_train=len(_units(trainer.train_dataset)),
            n_eval=len(_units(trainer.eval_dataset)),
            seconds=time.monotonic() - start,
            health=_health(options, folder),
        )
        folder.finish(steps=result.steps, seconds=round(result.seconds, 1))
    _tell(result, console)
    return result


def _be_quiet() -> None:
    """Leaves progress bars and warnings to the first process, which shows the same ones."""
    disable_progress_bar()
    warnings.simplefilter("ignore")


def ready(options: AlignOptions, console: Console) -> tuple[AlignmentTrainer, list[str]]:
    """A trainer that can start: everything loaded and checked, nothing written. Cheap checks come first."""
    training = options.training
    for note in options.notes:
        _line(f"note: {note}", console)
    tokenizer = prepared_tokenizer(options.model)
    train, held_out = prepared_data(options.data, training, tokenizer)
    lines = report_lines(train, held_out)
    for line in lines:
        _line(line, console)
    # Before models, which take long to load; the certificate is made at the very end.
    check_data_kind(training.build_objective(), train.kind, "train")
    check_enough(held_out, "held-out data", "hold out more (eval_size), or give eval_data")
    set_seed(training.seed)  # a new adapter starts from random weights
    model, reference = _models(options.model, tokenizer)
    with _adapter_refusals():
        trainer = AlignmentTrainer(
            model,
            reference,
            training,
            train_dataset=train,
            eval_dataset=held_out,
            processing_class=tokenizer,
            peft_config=options.lora.peft_config(),
        )
    trainer.add_callback(EvaluationLog(trainer, [FigureLogger(trainer)]))
    check_space(Path(str(training.output_dir)), _estimate(trainer))
    return trainer, lines


@contextmanager
def _adapter_refusals() -> Generator[None]:
    """Turns what PEFT says about an adapter that does not fit the model into a `ConfigError`."""
    try:
        yield
    except DistalError:
        raise
    except ValueError as error:
        raise ConfigError(
            f"the trainer refuses these options: {error} (layers for an adapter: --lora-target-modules)"
        ) from error


def _models(options: ModelOptions, tokenizer: PreTrainedTokenizerBase) -> tuple[Any, Any]:
    """The policy, and the reference where it is another model."""
    settings: dict[str, Any] = {
        "dtype": options.dtype,
        "attn_implementation": options.attn_implementation,
        "trust_remote_code": options.trust_remote_code,
        "quantization": options.quantization,
        "quantization_dtype": options.quantization_dtype,
    }
    policy = load_model(
        options.model, adapter=options.adapter, revision=options.revision, trainable=True, **settings
    )
    check_vocabulary(policy, tokenizer)
    if options.reference is None:
        return policy, None
    reference = load_model(options.reference, **settings)
    check_vocabulary(reference, tokenizer)
    return policy, reference


def _estimate(trainer: AlignmentTrainer) -> int:
    """Bytes that the run will write."""
    model: Any = trainer.model
    parameters = list(model.parameters())
    sizes = [
        (whole_shape(parameter).numel() * parameter.element_size(), parameter.requires_grad)
        for parameter in parameters
    ]
    return bytes_needed(
        weight_bytes=sum(size for size, _ in sizes),
        trainable_bytes=sum(size for size, trained in sizes if trained),
        saves_whole_model=not hasattr(model, "peft_config"),
        checkpoints=checkpoint_count(trainer.args, len(trainer.get_train_dataloader())),
        keeps_optimizer=not trainer.args.save_only_model,
    )


def checkpoint_count(args: AlignmentConfig, steps_per_epoch: int) -> int:
    """How many checkpoints lie on the disk at the same time, at most.

    Args:
        args: settings of the run.
        steps_per_epoch: optimizer steps in one pass over the data.
    """
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * steps_per_epoch)
    if args.save_strategy == SaveStrategy.NO:
        count = 0
    elif args.save_strategy == SaveStrategy.STEPS:
        interval = args.save_steps if args.save_steps >= 1 else max(1.0, math.ceil(args.save_steps * steps))
        # The Trainer also saves at the last step, whatever the interval.
        count = math.ceil(steps / interval)
    else:
        count = math.ceil(steps / max(1, steps_per_epoch))
    # A new checkpoint is complete before the oldest is removed.
    return count if args.save_total_limit is None else min(count, args.save_total_limit + 1)


def _train(trainer: AlignmentTrainer, folder: RunFolder, options: AlignOptions, console: Console) -> float:
    """Trains, from the last checkpoint if one is to be resumed; returns the mean loss."""
    checkpoint = None
    if options.resume:
        # The first process has removed broken checkpoints; the others may still see them.
        name = word_from_first_rank(folder.checkpoint.name if folder.checkpoint else "")
        checkpoint = folder.path / name if name else None
        start = checkpoint.name if checkpoint else "the beginning (no checkpoint was complete)"
        console.print(f"Going on from {start}.", highlight=False)
    guard = InterruptGuard(lambda line: console.print(line))
    trainer.add_callback(guard)
    with guard:
        output = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        # Asked to stop in the very last step, there is nothing left to stop.
        if guard.stopping and trainer.state.global_step < trainer.state.max_steps:
            raise KeyboardInterrupt
    return float(output.training_loss) if output.global_step else math.nan


@contextmanager
def _interruption_explained(folder: RunFolder) -> Generator[None]:
    """Gives a `KeyboardInterrupt` a message that says how to go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        saved = folder.checkpoint
        start = f"from {saved.name}" if saved else "from the beginning, since there is no checkpoint yet"
        raise RunInterrupted(
            f"interrupted. Everything so far is kept in {folder.path}; the same command with --resume goes "
            f"on {start}."
        ) from error


def _publish(
    trainer: AlignmentTrainer, folder: RunFolder, options: AlignOptions, data_lines: list[str]
) -> DominanceCertificate:
    """Writes the model, tokenizer, certificate, figure and card."""
    model: Any = trainer.model
    held_out = _units(trainer.eval_dataset)
    training = options.training
    certificate = evaluate_dominance(
        trainer.accelerator.unwrap_model(model),
        None,
        held_out,
        tokens_per_batch=training.reference_tokens_per_batch,
        layout=trainer.layout,
        autocast_dtype=training.autocast_dtype,
        progress=not training.disable_tqdm,
        shared=True,
        seed=training.seed,
    )
    facts = CardFacts(
        certificate=certificate,
        data_lines=data_lines,
        steps=trainer.state.global_step,
        n_train=len(_units(trainer.train_dataset)),
        n_eval=len(held_out),
        versions=package_versions(),
    )
    with folder.publishing() as target:
        model.config.use_cache = True  # off during training only; the saved model is there to generate
        trainer.save_model(str(target))
        if folder.main:
            (target / "training_args.bin").unlink(missing_ok=True)  # a pickle; distal.yaml says the same
            certificate.save(target / CERTIFICATE_FILE)
            plot_reward_quantiles({"held out, after training": certificate}, target / FIGURE_FILE)
            (target / "README.md").write_text(model_card(options, facts), encoding="utf-8")
    return certificate


def _health(options: AlignOptions, folder: RunFolder) -> HealthSummary | None:
    """What the guards found, if they were on."""
    thresholds = options.training.health_thresholds
    return None if thresholds is None else health_summary(folder.path / HEALTH_FILE, thresholds)


def _units(dataset: object) -> TokenizedPreferences:
    """The trainer's data set, which is one here: `prepared_data` made it."""
    assert isinstance(dataset, TokenizedPreferences)
    return dataset


@contextmanager
def _disk_full_named(path: Path) -> Generator[None]:
    """Turns the many ways in which a full disk shows into one `OutputError`."""
    try:
        yield
    except OutputError:
        raise
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise OutputError(
            f"no space left on the disk of {path}. Checkpoints that were complete are kept: make room, then "
            "go on with the same command and --resume (--save-total-limit 1 keeps fewer of them)."
        ) from error


def _tell(result: AlignResult, console: Console) -> None:
    """The short table at the end."""
    console.print(certificate_table(result.certificate))
    for line in _closing_lines(result):
        _line(line, console)


def _line(text: str, console: Console) -> None:
    """Prints one line as it is."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _closing_lines(result: AlignResult) -> Iterable[str]:
    """What was made and where it lies."""
    loss = "" if math.isnan(result.loss) else f", mean loss {result.loss:.4f}"
    took = f"{result.steps} steps on {result.n_train} units in {result.seconds:.0f} s"
    yield f"{took}{loss}; {result.n_eval} units held out."
    if result.health is not None:
        yield from result.health.lines()
    yield f"Model, tokenizer and model card: {result.output_dir}"
    yield f"Certificate: {result.output_dir / CERTIFICATE_FILE}   Figure: {result.output_dir / FIGURE_FILE}"
