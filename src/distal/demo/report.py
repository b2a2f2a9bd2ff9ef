"""What the demo writes and shows for people: samples, a card, the closing table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from distal.demo.judge import Judge
from distal.evaluation import DominanceCertificate, format_interval, format_ratio

__all__ = ["Generations", "closing_table", "reference_card", "sample_table", "samples_page"]

_SHOWN = 6
_PAGE = 25


@dataclass(frozen=True, slots=True)
class Generations:
    """Texts drawn from a model, and what the judge says of them.

    Attributes:
        texts: as drawn, in order.
        liked: whether the judge calls each one positive.
        temperature: at which they were drawn.
    """

    texts: list[str]
    liked: list[bool]
    temperature: float

    @classmethod
    def judged(cls, texts: list[str], judge: Judge, temperature: float) -> Generations:
        """The texts with the judge's verdicts."""
        return cls(texts, (judge.log_odds(texts) > 0).tolist(), temperature)

    def records(self, generator: str) -> list[dict[str, str]]:
        """The texts as AlpacaEval's list of outputs, as `distal report` reads it.

        Args:
            generator: name of the model.
        """
        return [
            {"instruction": "", "output": text, "generator": generator, "dataset": "film reviews"}
            for text in self.texts
        ]

    @property
    def share_liked(self) -> float:
        """Share that the judge calls positive."""
        return sum(self.liked) / len(self.liked)

    @property
    def distinct(self) -> int:
        """How many differ from one another."""
        return len(set(self.texts))

    @property
    def mean_words(self) -> float:
        """Mean number of words and punctuation marks."""
        return sum(len(text.split()) for text in self.texts) / len(self.texts)


def sample_table(before: Generations, after: Generations) -> Table:
    """The first few samples of both models, side by side."""
    table = Table(title=f"Samples at temperature {before.temperature:g}, same seed", show_lines=True)
    table.add_column("before alignment", ratio=1)
    table.add_column("after alignment", ratio=1)
    for old, new in list(zip(before.texts, after.texts, strict=True))[:_SHOWN]:
        table.add_row(_escaped(old), _escaped(new))
    return table


def closing_table(
    certificates: Sequence[DominanceCertificate], generations: Sequence[Generations], n: int
) -> Table:
    """Before and after: the certificate's numbers and the judge's share.

    Args:
        certificates: before and after.
        generations: before and after.
        n: number of held-out snippets.
    """
    table = Table(title=f"Alignment with aot_unpaired, {n:,} held-out snippets")
    table.add_column("")
    for stage in ("before", "after"):
        table.add_column(stage, justify="right")
    rows = {
        "violation ratio (0: liked dominate)": [format_ratio(c.violation_ratio) for c in certificates],
        "its 95 % interval": [format_interval(c.violation_ratio_ci) for c in certificates],
        "AUC, liked over disliked": [f"{c.auc:.3f}" for c in certificates],
        "mean reward gap, nats": [f"{c.mean_gap:.3f}" for c in certificates],
        "generations judged positive": [f"{g.share_liked:.1%}" for g in generations],
        "distinct generations": [f"{g.distinct} of {len(g.texts)}" for g in generations],
        "mean words per generation": [f"{g.mean_words:.1f}" for g in generations],
    }
    for name, values in rows.items():
        table.add_row(name, *values)
    return table


def samples_page(before: Generations, after: Generations, judge_accuracy: float) -> str:
    """Samples of both models as Markdown, each with the judge's verdict."""
    lines = [
        "# Samples",
        "",
        f"Drawn from the beginning-of-text token at temperature {before.temperature:g} with the same seed: nothing "
        "was picked.",
        f"`+` and `-` are verdicts of a judge that gets {judge_accuracy:.1%} of the held-out snippets right.",
    ]
    for title, part in (("Before alignment", before), ("After alignment", after)):
        lines += [
            "",
            f"## {title}",
            "",
            f"{part.share_liked:.1%} of {len(part.texts)} judged positive; {part.distinct} distinct; "
            f"{part.mean_words:.1f} words on average. The first {min(_PAGE, len(part.texts))}:",
            "",
        ]
        shown = list(zip(part.texts, part.liked, strict=True))[:_PAGE]
        lines += [f"- `{'+' if liked else '-'}` {_escaped(text)}" for text, liked in shown]
    return "\n".join(lines) + "\n"


def reference_card(folder: Path, held_out_loss: float, n_train: int) -> str:
    """The model card of the reference model."""
    return f"""---
library_name: transformers
pipeline_tag: text-generation
license: cc-by-4.0
tags: [distal]
---

# {folder.name}

A small language model of film-review sentences, the frozen reference of Distal's demo. Trained from
random weights by maximum likelihood on {n_train:,} snippets, liked and disliked alike; held-out loss
{held_out_loss:.3f} nats per token. It is a toy: its sentences are babble, and repeat the opinions of the
reviews.

Data: Sentence Polarity Dataset v1.0, copyright 2005 Bo Pang and Lillian Lee, CC BY 4.0 ("Seeing stars:
Exploiting class relationships for sentiment categorization with respect to rating scales", ACL 2005).
"""


def _escaped(text: str) -> str:
    """Text that neither Markdown nor rich's markup reads as anything but itself."""
    return text.replace("[", "\\[").replace("*", "\\*").replace("_", "\\_") if text else "(nothing)"
