"""The model card that goes with a result: what was done, how well it worked, how to load it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distal.data.hub import source_name
from distal.evaluation import DominanceCertificate, format_interval, format_ratio
from distal.report.citation import BIBTEX
from distal.workflow.options import AlignOptions
from distal.workflow.resolve import objective_settings

__all__ = ["CardFacts", "model_card"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card says beyond the options.

    Attributes:
        certificate: the held-out statement.
        data_lines: the data reports, line by line.
        steps: optimizer steps taken.
        n_train: units (pairs or samples) trained on.
        n_eval: units held out.
        versions: package versions.
    """

    certificate: DominanceCertificate
    data_lines: Sequence[str]
    steps: int
    n_train: int
    n_eval: int
    versions: Mapping[str, str]


def model_card(options: AlignOptions, facts: CardFacts) -> str:
    """The text of README.md, with the metadata that the Hugging Face hub reads.

    The licence is left to the user: it follows from those of the base model and of the data.

    Args:
        options: of the run.
        facts: what came out of it.
    """
    from huggingface_hub import ModelCardData

    adapter = options.lora.lora or options.model.adapter is not None
    header = ModelCardData(
        base_model=_public_name(options.model.model),
        datasets=_public_datasets(options),
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["distal", "preference-alignment", _objective_name(options).replace("_", "-")]
        + (["lora"] if adapter else []),
    ).to_yaml()
    sections = (
        _introduction(options),
        _method(options, facts),
        _result(facts),
        _usage(options, adapter),
        _ending(facts),
    )
    return f"---\n{header}\n---\n\n" + "\n\n".join(sections) + "\n"


def _public_name(name: str) -> str:
    """A hub id as it is; of a local folder only its name, since the path is nobody else's business."""
    path, colon, part = name.partition(":")
    if colon and not Path(name).exists() and Path(path).is_dir():
        return f"{Path(path).resolve().name}:{part}"
    known = Path(name).exists() or not _HUB_ID.fullmatch(source_name(name).base)
    return Path(name).resolve().name if known else name


def _public_datasets(options: AlignOptions) -> list[str] | None:
    """Hub ids among the data sources."""
    names = [name for name in (options.data.data, options.data.eval_data) if name is not None]
    sources = dict.fromkeys(source_name(name).base for name in names)
    return [name for name in sources if not Path(name).exists() and _HUB_ID.fullmatch(name)] or None


def _objective_name(options: AlignOptions) -> str:
    return str(options.training.objective)


def _introduction(options: AlignOptions) -> str:
    return (
        f"# {Path(str(options.training.output_dir)).resolve().name}\n\n"
        f"`{_public_name(options.model.model)}`, aligned with preferences by Distal (objective "
        f"`{_objective_name(options)}`)."
    )


def _method(options: AlignOptions, facts: CardFacts) -> str:
    """Settings and data."""
    training = options.training
    unit = "pairs" if facts.certificate.kind == "paired" else "samples"
    reference = options.model.reference
    rows = {
        "objective": training.objective,
        **{name.replace("_", " "): value for name, value in objective_settings(training).items()},
        "reference": "the model before training" if reference is None else _public_name(reference),
        "trained weights": f"LoRA, rank {options.lora.lora_r}, alpha {options.lora.lora_alpha}"
        if options.lora.lora
        else None,
        "base under the adapter": None
        if options.model.quantization == "none"
        else f"{options.model.quantization} (bitsandbytes)",
        "optimizer batch": f"{training.global_batch_size} {unit}",
        "steps": facts.steps,
        "peak learning rate": training.learning_rate,
        "seed": training.seed,
        f"{unit} trained on": facts.n_train,
        f"{unit} held out": facts.n_eval,
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items() if value is not None)
    data = "\n".join(facts.data_lines)
    for source in (options.data.data, options.data.eval_data):
        if source is not None:
            data = data.replace(source, _public_name(source))
    return (
        f"## Method and data\n\n| setting | value |\n|---|---|\n{table}\n\nData, as read:\n\n```\n{data}\n```"
    )


def _result(facts: CardFacts) -> str:
    """The certificate in words and numbers."""
    certificate = facts.certificate
    low, high = certificate.mean_gap_ci
    rows = [
        (
            "violation ratio",
            format_ratio(certificate.violation_ratio),
            format_interval(certificate.violation_ratio_ci),
        ),
        ("AUC", f"{certificate.auc:.3f}", format_interval(certificate.auc_ci)),
        ("mean gap (nats)", f"{certificate.mean_gap:+.3f}", f"[{low:+.3f}, {high:+.3f}]"),
    ]
    if certificate.accuracy is not None and certificate.accuracy_ci is not None:
        rows.append(
            (
                "share of pairs ranked right",
                f"{certificate.accuracy:.3f}",
                format_interval(certificate.accuracy_ci),
            )
        )
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return (
        f"## Held-out result\n\n{certificate.verdict}\n\n| | value | {100 * certificate.confidence:g} % "
        "interval |\n"
        f"|---|---|---|\n{table}\n\nRewards are log-ratios to the reference, in nats. Curves: "
        "`reward_quantiles.png`; "
        "all numbers: `dominance.json`."
    )


def _usage(options: AlignOptions, adapter: bool) -> str:
    """Code that loads the result."""
    loader = (
        "from peft import AutoPeftModelForCausalLM"
        if adapter
        else "from transformers import AutoModelForCausalLM"
    )
    name = loader.rsplit(" ", 1)[-1]
    return (
        f"## Loading\n\n```python\n{loader}\nfrom transformers import AutoTokenizer\n\n"
        f'folder = "path/to/this/folder"\nmodel = {name}.from_pretrained(folder)\n'
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n```"
    )


def _ending(facts: CardFacts) -> str:
    """Licence, citation and versions."""
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    return (
        "## Licence\n\nNot stated yet: it follows from the licences of the base model and of the data.\n\n"
        f"## Citation\n\n```bibtex\n{BIBTEX}\n```\n\n## Versions\n\n{versions}"
    )
