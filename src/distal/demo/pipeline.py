"""`distal demo`: the whole main job on data that comes with the package."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from distal.demo.alignment import AlignmentScale, align_demo
from distal.demo.folder import DemoFolder
from distal.demo.judge import Judge, train_judge
from distal.demo.language_model import LanguageModelConfig, mean_token_loss, train_language_model
from distal.demo.report import Generations, closing_table, reference_card, sample_table, samples_page
from distal.demo.sampling import sample_texts
from distal.demo.snippets import LICENSE_FILE, SnippetSplit, load_snippets, split_snippets
from distal.demo.tokenizer import train_tokenizer
from distal.evaluation import DominanceCertificate
from distal.evaluation.files import write_atomically
from distal.report.figures import plot_reward_quantiles

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = ["FULL", "QUICK", "DemoResult", "DemoScale", "run_demo"]


@dataclass(frozen=True, slots=True)
class DemoScale:
    """How much of everything a demo takes.

    Attributes:
        held_out: snippets for evaluation, half of them liked.
        train: training snippets at most; None for all.
        vocab_size: of the tokenizer.
        model: shape and training of the language model.
        epochs: passes of its training.
        alignment: settings of the alignment.
        generations: texts drawn from each model.
        temperature: of the draws, for both models; below 1, a small model makes fewer slips.
    """

    held_out: int = 1000
    train: int | None = None
    vocab_size: int = 1024
    model: LanguageModelConfig = LanguageModelConfig()
    epochs: float = 4.0
    alignment: AlignmentScale = AlignmentScale()
    generations: int = 200
    temperature: float = 0.7


FULL = DemoScale()
"""Minutes on two CPU cores."""

QUICK = DemoScale(
    held_out=200,
    train=1000,
    vocab_size=512,
    model=LanguageModelConfig(
        hidden_size=64, layers=1, heads=2, mlp_size=128, tokens_per_batch=1024, learning_rate=3e-3
    ),
    epochs=2.0,
    alignment=AlignmentScale(epochs=1.0, batch=128, learning_rate=1e-3, resamples=200),
    generations=40,
)
"""Seconds: the same path, too small to be any good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What a demo found.

    Attributes:
        output_dir: folder with all files.
        before: certificate of the held-out snippets before alignment; its violation ratio is undefined.
        after: the same after alignment.
        generations_before: judged texts of the reference.
        generations_after: judged texts of the aligned model.
        judge_accuracy: share of held-out snippets that the judge gets right.
        seconds: wall-clock time of everything.
    """

    output_dir: Path
    before: DominanceCertificate
    after: DominanceCertificate
    generations_before: Generations
    generations_after: Generations
    judge_accuracy: float
    seconds: float

    def summary(self) -> dict[str, Any]:
        """What `summary.json` holds; the certificate's numbers are those after alignment."""
        interval = self.after.violation_ratio_ci
        return {
            "objective": "aot_unpaired",
            "n_eval": self.after.n_preferred + self.after.n_other,
            "violation_ratio": self.after.violation_ratio,
            "violation_ratio_ci": None if interval is None else list(interval),
            "auc": self.after.auc,
            "mean_gap": self.after.mean_gap,
            "judge_before": self.generations_before.share_liked,
            "judge_after": self.generations_after.share_liked,
            "seconds": round(self.seconds, 1),
        }


def run_demo(
    output_dir: str | Path = "runs/demo",
    *,
    seed: int = 0,
    quick: bool = False,
    console: Console | None = None,
) -> DemoResult:
    """Trains a small language model on film-review snippets and aligns it towards the liked ones.

    Args:
        output_dir: folder for the results; an earlier demo in it is moved aside.
        seed: of everything random.
        quick: a few seconds' work, to see that everything runs.
        console: where to tell what happens; None for the terminal.

    Returns:
        The result, all of it also in files.

    Raises:
        OutputError: the folder holds something other than a demo, is in use, or cannot be written to.
        KeyboardInterrupt: Ctrl-C; the folder's `demo.json` says that the demo was interrupted.
    """
    console = console or Console()
    start = time.monotonic()
    folder = DemoFolder(output_dir, {"seed": seed, "quick": quick})
    with folder.held(), _without_loading_bars():
        if folder.moved_to is not None:
            _say(console, f"The earlier demo in {folder.path} is now in {folder.moved_to}.")
        try:
            result = _run(folder.path, QUICK if quick else FULL, seed, console, start)
        except KeyboardInterrupt:
            _say(
                console,
                f"\nInterrupted. What there is lies in {folder.path}; the next demo moves it aside and "
                "starts anew.",
            )
            raise
    _tell(result, console)
    return result


def _run(folder: Path, scale: DemoScale, seed: int, console: Console, start: float) -> DemoResult:
    """All steps, in order."""
    split = split_snippets(load_snippets(), scale.held_out, seed=seed)
    split = SnippetSplit(split.train[: scale.train], split.held_out)
    _write_data(folder / "data", split)
    _say(
        console,
        f"{len(split.train):,} film-review snippets to train on, {len(split.held_out):,} held out "
        "(Pang and Lee 2005, CC BY 4.0).",
    )
    reference, tokenizer = _reference(folder / "reference", split, scale, seed, console)
    judge = train_judge(split.train)
    accuracy = judge.accuracy(split.held_out)
    _say(
        console,
        f"Judge (words and pairs of words): {accuracy:.1%} of the held-out snippets right.",
    )
    before = _generations(reference, tokenizer, judge, scale, seed)
    _say(console, "Aligning towards the liked snippets.")
    aligned = align_demo(folder, scale.alignment, seed=seed)
    after = _generations(aligned.model, tokenizer, judge, scale, seed)
    result = DemoResult(
        output_dir=folder,
        before=aligned.before,
        after=aligned.after,
        generations_before=before,
        generations_after=after,
        judge_accuracy=accuracy,
        seconds=time.monotonic() - start,
    )
    _write_results(result)
    return result


@contextmanager
def _without_loading_bars() -> Generator[None]:
    """Keeps transformers from drawing a bar for each of the few tensors that it loads or saves."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _write_data(folder: Path, split: SnippetSplit) -> None:
    """The split as files for `distal align` and `distal evaluate dominance`, with the notice they need."""
    for name, part in (("train", split.train), ("held_out", split.held_out)):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in split.rows(part))
        write_atomically(folder / f"{name}.jsonl", lines.encode())
    shutil.copyfile(str(files("distal.demo").joinpath(LICENSE_FILE)), folder / LICENSE_FILE)


def _reference(
    folder: Path, split: SnippetSplit, scale: DemoScale, seed: int, console: Console
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Trains and saves tokenizer and language model."""
    texts = [snippet.text for snippet in split.train]
    tokenizer = train_tokenizer(texts, scale.vocab_size)
    model = train_language_model(
        texts,
        tokenizer,
        config=scale.model,
        epochs=scale.epochs,
        seed=seed,
        progress="training a language model",
    )
    loss = mean_token_loss(model, tokenizer, [snippet.text for snippet in split.held_out])
    _say(
        console,
        f"Language model: {model.num_parameters() / 1e6:.2f}M parameters, held-out loss {loss:.3f} nats "
        "per token.",
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_atomically(folder / "README.md", reference_card(folder, loss, len(texts)).encode())
    return model, tokenizer


def _generations(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, judge: Judge, scale: DemoScale, seed: int
) -> Generations:
    texts = sample_texts(model, tokenizer, scale.generations, seed=seed, temperature=scale.temperature)
    return Generations.judged(texts, judge, scale.temperature)


def _write_results(result: DemoResult) -> None:
    folder = result.output_dir
    result.before.save(folder / "dominance-before.json")
    result.after.save(folder / "dominance.json")
    plot_reward_quantiles({"before": result.before, "after": result.after}, folder / "reward_quantiles.png")
    page = samples_page(result.generations_before, result.generations_after, result.judge_accuracy)
    write_atomically(folder / "samples.md", page.encode())
    for stage, part in (("before", result.generations_before), ("after", result.generations_after)):
        records = json.dumps(part.records(stage), indent=1, ensure_ascii=False) + "\n"
        write_atomically(folder / "generations" / f"{stage}.json", records.encode())
    summary = json.dumps(result.summary(), indent=2, allow_nan=False) + "\n"
    write_atomically(folder / "summary.json", summary.encode())


def _say(console: Console, text: str) -> None:
    """Prints plain text, in lines as long as they are: paths stay in one piece."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _tell(result: DemoResult, console: Console) -> None:
    """Samples, the closing table, and where to look."""
    generations = (result.generations_before, result.generations_after)
    console.print(sample_table(*generations))
    console.print(closing_table((result.before, result.after), generations, result.summary()["n_eval"]))
    _say(console, f"Before: {result.before.verdict}\nAfter: {result.after.verdict}")
    folder = result.output_dir
    _say(
        console,
        f"\n{result.seconds:.0f} s. Where to look:\n"
        f"  {folder}/reward_quantiles.png   reward quantiles of liked and disliked snippets\n"
        f"  {folder}/samples.md             samples before and after; generations/ holds all of them\n"
        f"  {folder}/dominance.json         the certificate in full; summary.json in short\n"
        f"  {folder}/reference, aligned     both models, for AutoModelForCausalLM\n"
        f"  {folder}/align.yaml             the same alignment for `distal align --config`\n"
        f"  tensorboard --logdir {folder}/tensorboard\n"
        f"  distal report {folder}          all of it on one page",
    )
