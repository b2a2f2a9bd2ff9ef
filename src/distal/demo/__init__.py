"""The demo: a small language model of film reviews, trained and aligned within minutes on a CPU.

Its parts serve small experiments as well: `train_tokenizer`, `train_language_model`, `train_judge`.
"""

from __future__ import annotations

from distal.demo.judge import Judge, train_judge
from distal.demo.language_model import (
    LanguageModelConfig,
    build_language_model,
    mean_token_loss,
    train_language_model,
)
from distal.demo.pipeline import DemoResult, run_demo
from distal.demo.sampling import sample_texts
from distal.demo.snippets import Snippet, SnippetSplit, load_snippets, split_snippets
from distal.demo.tokenizer import train_tokenizer

__all__ = [
    "DemoResult",
    "Judge",
    "LanguageModelConfig",
    "Snippet",
    "SnippetSplit",
    "build_language_model",
    "load_snippets",
    "mean_token_loss",
    "run_demo",
    "sample_texts",
    "split_snippets",
    "train_judge",
    "train_language_model",
    "train_tokenizer",
]
