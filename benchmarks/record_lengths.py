"""Lengths of prompts, chosen and rejected completions in real preference data, for the benchmarks of a step.

Texts become tokens by GPT-2's byte-level BPE (50,257 entries), conversations by a plain template with role marks.
Pairs longer than 1024 tokens on either side are left out, as training does by default. Of each set up to 1,000 pairs
are kept, drawn with seed 0, as (prompt, chosen, rejected) triples: their joint distribution matters, since a prompt's
share decides what sharing it saves.

    python benchmarks/record_lengths.py --data FOLDER      # writes benchmarks/data/lengths.json
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from random import Random

from transformers import PreTrainedTokenizerFast

from distal.data import prepare_dataset

SETS = {
    "hh": ("hh-rlhf/helpful-base.jsonl.gz", "Anthropic HH-RLHF helpful-base, official test split (MIT)"),
    "ultrafeedback": ("ultrafeedback/train.jsonl.gz", "sample of ultrafeedback_binarized, train (MIT)"),
    "summarize": (
        "summarize/comparisons-train.jsonl.gz",
        "OpenAI summarize-from-feedback comparisons, train (modified MIT; posts CC BY 4.0)",
    ),
}
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
OUTPUT = Path(__file__).parent / "data" / "lengths.json"


def main() -> None:
    """All sets."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(options.data / "tokenizers/gpt2/tokenizer.json"),
        eos_token="<|endoftext|>",
        chat_template=TEMPLATE,
    )
    sets: dict[str, object] = {}
    for name, (file, source) in SETS.items():
        rows = prepare_dataset(str(options.data / file), tokenizer, max_length=1024)
        triples = [
            (c.prompt_length, c.completion_length, r.completion_length)
            for c, r in (rows[i] for i in range(len(rows)))
        ]
        kept = Random(0).sample(triples, min(1000, len(triples)))
        columns = zip(("prompt", "chosen", "rejected"), zip(*kept, strict=True), strict=True)
        median = {what: statistics.median(column) for what, column in columns}
        sets[name] = {"source": source, "pairs": len(kept), "median_tokens": median, "triples": kept}
        print(name, len(triples), median)
    text = json.dumps({"tokenizer": "GPT-2 byte-level BPE", "longest": 1024, "sets": sets})
    OUTPUT.write_text(text.replace('"sets"', '\n"sets"').replace('{"source"', '\n{"source"') + "\n")


if __name__ == "__main__":
    main()
