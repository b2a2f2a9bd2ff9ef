"""Preference files made ready for training: rows per second and peak memory, beside TRL 1.16's own preparation.

The same JSON-lines file, tokenizer, chat template and maximal length go through `distal.data.prepare_dataset` and
through `datasets.load_dataset` with `DPOTrainer._prepare_dataset`: UltraFeedback as conversations, HH-RLHF as plain
strings, repeated with a number in each prompt until there are enough rows with different prompts. Rows that would be
longer than the limit are left out beforehand, so that both sides keep all. First the token ids and the place where
the completion begins must agree, row by row. Then the sides run in fresh processes, in the order A, B, B, A, with empty
caches; each is asked a second time in another process, which finds what the first has kept. Imports are not timed;
reading the file is. Processes are the only parallelism: threads of the tokenizer are switched off. What a side does
and the other does not is written beside the figures.

    python benchmarks/data.py --data ../shared/data                    # tables, and results/data.json
    python benchmarks/data.py --data ../shared/data --rows 400 --busy  # a quick look, while others use the machine
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import inspect
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

RESULTS = Path(__file__).parent / "results" / "data.json"
GOAL = 1.5
"""Times the rows per second of TRL."""
FILES = {"ultrafeedback": "ultrafeedback/train.jsonl.gz", "hh": "hh-rlhf/helpful-base.jsonl.gz"}
ORDER = ("trl", "distal", "distal", "trl")
MARGIN = 16
"""Tokens that the number in a prompt may take."""
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NOT_DONE = {
    "trl": [
        "no look at the rows: equal sides, empty answers, wrong types and roles pass or stop it with a traceback",
        "no count of what becomes of each row, none of repeated and contradicting rows",
        "answers are not cut behind an end-of-text token inside them",
        "rows that are longer than the limit are cut when they are collated, not counted",
        "texts are kept as they were read, not as the template wrote them",
    ],
    "distal": [
        "columns that it does not use are not kept",
        "images and texts without prompts of their own (a shared beginning of characters) are not handled as TRL does",
        "what it keeps is found by the bytes of the file, which are read for that; TRL's by the time of the file",
    ],
}
Numbers = dict[str, float]


def make_tokenizer(folder: Path, target: Path) -> None:
    """GPT-2's tokenizer with the turns of ChatML."""
    from transformers import PreTrainedTokenizerFast

    file = str(folder / "tokenizers" / "gpt2" / "tokenizer.json")
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_file=file, pad_token="<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"], "eos_token": "<|im_end|>"})
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(target)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer that was saved."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def originals(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a set with a prompt of their own: conversations of UltraFeedback, strings of HH-RLHF."""
    from distal.data import open_preferences
    from distal.data.schemas import Preference

    if name == "ultrafeedback":
        with gzip.open(folder / FILES[name], "rt", encoding="utf-8") as file:
            read = [json.loads(line) for line in file]
        roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        return [
            {column: [{"role": role, "content": row[column]}] for column, role in roles.items()}
            for row in read
        ]
    made = [one for _, one in open_preferences(folder / FILES[name]) if isinstance(one, Preference)]
    return [
        {"prompt": one.prompt, "chosen": one.completions[0], "rejected": one.completions[1]} for one in made
    ]


def numbered(row: dict[str, Any], number: int) -> dict[str, Any]:
    """The row with a number in its prompt."""
    prompt = row["prompt"]
    if isinstance(prompt, str):
        return {**row, "prompt": prompt.replace("\n\nHuman: ", f"\n\nHuman: ({number}) ", 1)}
    return {**row, "prompt": [{"role": "user", "content": f"({number}) {prompt[0]['content']}"}]}


def write_rows(folder: Path, name: str, count: int, max_length: int, tokenizer: Any, target: Path) -> int:
    """Write so many rows that fit; the number of different ones among the originals."""
    from distal.data import prepare_dataset

    rows = originals(folder, name)
    fitting = prepare_dataset(rows, tokenizer, max_length=max_length - MARGIN, truncation="drop")
    chosen = [rows[unit[0].source_row] for unit in fitting]

    def repeated() -> Iterator[dict[str, Any]]:
        for number in range(count):
            yield numbered(chosen[number % len(chosen)], number)

    with target.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in repeated())
    return len(chosen)


def prepare_distal(path: Path, tokenizer: Any, workers: int, max_length: int, cache: Path | None) -> Any:
    """Our side."""
    from distal.data import prepare_dataset

    known = inspect.signature(prepare_dataset).parameters
    option = "num_proc" if "num_proc" in known else "workers"
    given: dict[str, Any] = {option: workers} if workers > 1 else {}
    if cache is not None and "cache_dir" in known:
        given["cache_dir"] = cache
    return prepare_dataset(path, tokenizer, max_length=max_length, **given)


def prepare_trl(path: Path, tokenizer: Any, workers: int, max_length: int, cache: Path | None) -> Any:
    """TRL's side: its own method, on as much of a trainer as the method looks at."""
    import datasets
    from trl import DPOTrainer

    datasets.disable_progress_bars()
    rows: Any = datasets.load_dataset(
        "json", data_files=str(path), split="train", cache_dir=cache and str(cache)
    )
    trainer: Any = SimpleNamespace(_tokenizer=tokenizer)
    settings: Any = SimpleNamespace(
        dataset_num_proc=workers if workers > 1 else None, max_length=max_length, truncation_mode="keep_start"
    )
    prepare: Any = DPOTrainer._prepare_dataset  # pyright: ignore[reportPrivateUsage]
    return prepare(trainer, rows, tokenizer, settings, "train")


SIDES: dict[str, Callable[..., Any]] = {"distal": prepare_distal, "trl": prepare_trl}


def peak_mib(who: int) -> float:
    """Largest resident memory so far, MiB."""
    return resource.getrusage(who).ru_maxrss / (2**20 if platform.system() == "Darwin" else 2**10)


def measure(options: argparse.Namespace) -> Numbers:
    """One side in this process: seconds, rows, memory."""
    import datasets

    for module in ("trl", "trl.trainer.dpo_trainer", "distal.data.preparation", "distal.data.checking"):
        importlib.import_module(module)  # by both sides, before the clock starts
    datasets.disable_progress_bars()
    tokenizer = load_tokenizer(options.tokenizer)
    tokenizer("warm")
    before = peak_mib(resource.RUSAGE_SELF)
    start = time.perf_counter()
    if options.side == "check":
        from distal.data import open_preferences
        from distal.data.checking import check_data

        count = check_data(open_preferences(options.file)).report.n_kept
    else:
        made = SIDES[options.side](
            options.file, tokenizer, options.workers, options.max_length, options.cache
        )
        count = len(made)
    return {
        "seconds": time.perf_counter() - start,
        "rows": count,
        "peak_mib": peak_mib(resource.RUSAGE_SELF),
        "before_mib": before,
        "worker_peak_mib": peak_mib(resource.RUSAGE_CHILDREN),
    }


def differences(path: Path, tokenizer: Any, max_length: int, scratch: Path) -> tuple[int, list[int]]:
    """Rows compared, and those whose token ids or beginning of the completion differ."""
    ours = prepare_distal(path, tokenizer, 1, max_length, None)
    theirs = prepare_trl(path, tokenizer, 1, max_length, scratch)
    wrong: list[int] = []
    for number, (unit, row) in enumerate(zip(ours, theirs, strict=True)):
        mine = [(list(side.input_ids), side.prompt_length) for side in unit]
        his = [
            (row["prompt_ids"] + row[f"{side}_ids"], len(row["prompt_ids"]))
            for side in ("chosen", "rejected")
        ]
        if mine != his:
            wrong.append(number)
    return len(ours), wrong


def in_fresh_process(
    options: argparse.Namespace, side: str, workers: int, file: Path, tokenizer: Path, cache: Path
) -> Numbers:
    """`measure` in a process of its own."""
    words = [sys.executable, __file__, "--side", side, "--workers", str(workers), "--file", str(file)]
    words += ["--tokenizer", str(tokenizer), "--cache", str(cache), "--max-length", str(options.max_length)]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(cache)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(
    options: argparse.Namespace, file: Path, workers: int, tokenizer: Path, scratch: Path
) -> dict[str, Any]:
    """Both sides on one file, first with empty caches and then with their own."""
    found: dict[str, dict[str, list[Numbers]]] = {side: {"first": [], "again": []} for side in SIDES}
    for number, side in enumerate(ORDER):
        cache = scratch / f"cache-{file.stem}-{workers}-{number}"
        for time_ in ("first", "again"):
            numbers = in_fresh_process(options, side, workers, file, tokenizer, cache)
            found[side][time_].append(numbers)
            rate = numbers["rows"] / numbers["seconds"]
            print(
                f"{file.stem}, {workers} workers, {side}, {time_}: {rate:,.0f} rows/s",
                file=sys.stderr,
                flush=True,
            )
    return found


def rate(runs: list[Numbers]) -> float:
    """Median rows per second."""
    return statistics.median(run["rows"] / run["seconds"] for run in runs)


def row_of(name: str, workers: int, found: dict[str, dict[str, list[Numbers]]]) -> list[Any]:
    """One line of the table."""
    line: list[Any] = [name, workers]
    for when in ("first", "again"):
        rates = [round(rate(found[side][when])) for side in ("trl", "distal")]
        line += [*rates, round(rates[1] / rates[0], 2)]
    for side in ("trl", "distal"):
        runs = found[side]["first"]
        line.append(round(max(run["peak_mib"] for run in runs)))
        line.append(round(max(run["worker_peak_mib"] for run in runs)) if workers > 1 else "")
    return line


HEADER = (
    *(
        "data",
        "workers",
        "TRL, rows/s",
        "Distal, rows/s",
        "times",
        "TRL again",
        "Distal again",
        "times again",
    ),
    *("TRL, peak MiB", "of a worker", "Distal, peak MiB", "of a worker"),
)


def study(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, as the record that is written."""
    record: dict[str, Any] = {
        "environment": environment(options),
        "not_done": NOT_DONE,
        "runs": {},
        "tables": {
            "rows": {"header": HEADER, "rows": []},
            "check": {"header": ("data", "rows/s"), "rows": []},
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        make_tokenizer(options.data, scratch / "tokenizer")
        tokenizer = load_tokenizer(scratch / "tokenizer")
        for name in FILES:
            file, few = scratch / f"{name}.jsonl", scratch / f"{name}-few.jsonl"
            different = write_rows(options.data, name, options.rows, options.max_length, tokenizer, file)
            with file.open(encoding="utf-8") as whole:
                few.write_text("".join(islice(whole, options.compared)), encoding="utf-8")
            compared, wrong = differences(few, tokenizer, options.max_length, scratch / "equal")
            print(f"{name}: {compared} rows compared, {len(wrong)} differ", file=sys.stderr, flush=True)
            if wrong:
                raise SystemExit(f"{name}: token ids differ, first in row {wrong[0]}; nothing is measured")
            checked = in_fresh_process(options, "check", 1, file, scratch / "tokenizer", scratch / "check")
            record["tables"]["check"]["rows"].append([name, round(checked["rows"] / checked["seconds"])])
            for workers in options.workers:
                found = compare(options, file, workers, scratch / "tokenizer", scratch)
                record["runs"][f"{name}/{workers}"] = {
                    **found,
                    "equal_rows": compared,
                    "different_originals": different,
                }
                record["tables"]["rows"]["rows"].append(row_of(name, workers, found))
    return record


def environment(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("trl", "datasets", "transformers", "tokenizers", "pyarrow")},
        "rows": options.rows,
        "max_length": options.max_length,
        "busy": options.busy,
    }


def main() -> None:
    """Prints the tables and writes the record; `--side` measures one side in this process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the data files")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--compared", type=int, default=1000, help="rows whose token ids are compared")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--busy", action="store_true", help="others use the machine; written beside the figures"
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--side", choices=("trl", "distal", "check"), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tokenizer", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side is not None:
        (options.workers,) = options.workers
        print(json.dumps(measure(options)))
        return
    if options.data is None:
        parser.error("--data is required: the folder of the data files")
    record = study(options)
    for table in record["tables"].values():
        for line in (table["header"], *table["rows"]):
            print("| " + " | ".join(map(str, line)) + " |")
    slower = [line[:2] for line in record["tables"]["rows"]["rows"] if line[4] < GOAL]
    print(f"goal of {GOAL} times TRL: " + (f"missed by {slower}" if slower else "reached in every row"))
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
