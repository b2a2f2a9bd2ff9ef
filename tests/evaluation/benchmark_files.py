"""A handful of documents for each benchmark: as the hub has them, and as the files that Distal reads."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

ARC: list[dict[str, Any]] = [
    {
        "question": "Which of these melts first in the sun?",
        "choices": {"text": ["ice", "a stone", "iron", "Answer: none"], "label": ["A", "B", "C", "D"]},
        "answerKey": "A",
    },
    {
        "question": "A plant needs light to\n\ngrow. What else?",
        "choices": {"text": ["water, too", "sand", 'a "pot"'], "label": ["A", "B", "C"]},
        "answerKey": "C",
    },
    {
        "question": "How many legs has a spider?",
        "choices": {"text": ["2", "4", "6", "8", "10"], "label": ["A", "B", "C", "D", "E"]},
        "answerKey": "D",
    },
]
WINOGRANDE: list[dict[str, Any]] = [
    {
        "sentence": "The cup fell off the shelf because _ was crooked.",
        "option1": "the cup",
        "option2": "the shelf",
        "answer": "2",
    },
    {
        "sentence": "Ann thanked Eve, since _ had helped.",
        "option1": "Ann",
        "option2": "Eve's dog",
        "answer": "1",
    },
]
TRUTHFULQA: list[dict[str, Any]] = [
    {
        "question": "What does an owl do at night?",
        "best_answer": "It hunts",
        "correct_answers": ["It hunts", "It hoots", ""],
        "incorrect_answers": ["It reads", "Nothing", "It's asleep"],
    },
    {
        "question": "Is the moon made of cheese?",
        "best_answer": "No",
        "correct_answers": ["No"],
        "incorrect_answers": ["Yes"],
    },
]
GSM8K: list[dict[str, Any]] = [
    {
        "question": "Tom has 3 pens and buys 4. How many has he?",
        "answer": "He has 3 + 4 = <<3+4=7>>7.\n#### 7",
    },
    {"question": "A box of 1,000 nails costs $5. And two?", "answer": "Two cost 2 * 5 = 10.\n#### 10"},
]
HELLASWAG: list[dict[str, Any]] = [
    {
        "activity_label": "Baking [step]",
        "ctx_a": "A cook  stands at a table.",
        "ctx_b": "the cook",
        "endings": ["breaks an egg.", "flies [title] off.", "sings  loudly [substeps] now.", "sleeps."],
        "label": "2",
    },
    {
        "activity_label": "Rowing",
        "ctx_a": "A boat.",
        "ctx_b": "",
        "endings": ["sinks", "swims"],
        "label": "0",
    },
]
MMLU: dict[str, dict[str, list[list[str]]]] = {
    "high_school_physics": {
        "test": [
            [" What pulls an apple down?\nThink. ", "gravity", "the wind", "light", "0", "A"],
            ['A "light" year is a', "time", "distance, of course", "mass", "year", "B"],
            ["1 + 1", "1", "2", "3", "4", "B"],
        ],
        "dev": [
            ["What is hot?", "ice", "snow", "fire", "rain", "C"],
            ["Sound is a", "w", "x", "y", "z", "A"],
        ],
    },
    "virology": {
        "test": [
            ["A virus is", "small", "large", "green", "old", "A"],
            ["Is it alive?", "a", "b", "c", "d", "D"],
        ],
        "dev": [["Which one?", "this", "that", "both", "none", "B"]],
    },
}


def write_files(folder: Path) -> Path:
    """Writes all files of the suite `local`, and HellaSwag's."""
    folder.mkdir(parents=True, exist_ok=True)
    arc = [
        _instruction(
            f"Please choose the correct answer to the question: {doc['question']}",
            "Answer",
            doc["choices"]["text"],
            doc["choices"]["label"].index(doc["answerKey"]),
            "\n\n",
        )
        for doc in ARC
    ]
    opening = "Please choose the correct answer to fill in the blank to complete the given sentence: "
    winogrande = [
        _instruction(
            opening + doc["sentence"],
            "Option",
            [doc["option1"], doc["option2"]],
            int(doc["answer"]) - 1,
            " ",
        )
        for doc in WINOGRANDE
    ]
    files = {
        "arc-easy-test": arc,
        "arc-challenge-test": arc[:2],
        "winogrande-val": winogrande,
        "truthfulqa-en": TRUTHFULQA,
        "gsm8k-test": GSM8K,
        "hellaswag-val": HELLASWAG,
    }
    for stem, rows in files.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{stem}.jsonl").write_text(text, encoding="utf-8")
    with zipfile.ZipFile(folder / "mmlu.zip", "w") as archive:
        for subject, splits in MMLU.items():
            for split, rows in splits.items():
                stream = io.StringIO()
                csv.writer(stream).writerows(rows)
                archive.writestr(f"data/{split}/{subject}_{split}.csv", stream.getvalue())
    return folder


def save_model(folder: Path, make_llama: Callable[..., Any], *, seed: int = 0, context: int = 1024) -> Path:
    """A tiny random model that reads bytes, and its tokenizer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": 0} | {letter: number for number, letter in enumerate(alphabet, start=1)}
    core = Tokenizer(models.BPE(vocabulary, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    model = make_llama(
        seed=seed,
        vocab_size=len(vocabulary),
        max_position_embeddings=context,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _instruction(opening: str, mark: str, options: list[str], right: int, gap: str) -> dict[str, str]:
    """A row in instruction form."""
    listed = " ".join(f"{mark}{number}: {option}" for number, option in enumerate(options, start=1))
    names = [f"{mark.lower()}{number}" for number in range(1, len(options) + 1)]
    return {
        "instruction": f"{opening}\n\n{listed}{gap}Answer format: {'/'.join(names)}",
        "input": "",
        "output": f"the correct answer is {names[right]}",
        "answer": names[right],
    }
