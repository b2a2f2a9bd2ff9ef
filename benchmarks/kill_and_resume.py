"""Kill a run again and again, resume it each time, and compare what it ends with to the run that went through.

`distal align` trains a small model with dropout on (so that random numbers matter) over several epochs. A second run
of the same command is killed with SIGKILL at random moments and resumed, fifty times by default:

    anywhere          a random time after a random step
    while writing     a random time after a checkpoint has begun to be written
    inside the write  at a random operation on the files of a checkpoint: it is opened, renamed, removed
    start             a random time after the process was started

Each life is a process of its own, forked from one that has imported the libraries and done nothing else: a life takes
about two seconds instead of ten, and kills at the start meet the program and not its imports.

After each kill the last usable checkpoint must not be older than the one before. In the end weights, optimizer state,
certificate and health.jsonl must be equal to those of the uninterrupted run, byte for byte or bit for bit.

With `--lora` an adapter is trained by the strategy `deferred`, chosen under a small memory budget; each further life is
given another, larger budget, under which a new run would choose `retain`.

    python benchmarks/kill_and_resume.py           # a table, and benchmarks/results/kill_and_resume.json
    python benchmarks/kill_and_resume.py --lora    # the same with results/kill_and_resume_lora.json

The moments follow from the seed, up to what the system does in between. The script itself may be interrupted: started
again with the same folder, it goes on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from distal.training.checkpoints import STAGING, last_usable_checkpoint
from distal.training.health.log import HEALTH_FILE

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("inside the write", "anywhere", "while writing", "anywhere", "start")
SAVE_STEPS = 4
SMALL_BUDGET, LARGER_BUDGETS = 0.0005, (0.01, 1.0, 100.0)
"""GiB: too little for the graphs of a batch, but enough for the adapter gradients of its pairs; enough for both."""
OPERATIONS = 40
"""On the files of one checkpoint, about."""
IMPORTED = ("distal.cli.align", "distal.workflow.alignment", "transformers.models.llama.modeling_llama")
"""What lives share, beside what these import."""
EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")


def prepare(work: Path) -> None:
    """A model, a tokenizer and pairs, the same for the same version of the libraries."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.1,
        attention_dropout=0.1,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(work / "model")
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, 64)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.save_pretrained(work / "model")
    draw = random.Random(0)

    def text(longest: int) -> str:
        return " ".join(f"w{draw.randrange(3, 64)}" for _ in range(draw.randrange(1, longest)))

    rows = [{"prompt": text(6), "chosen": " " + text(12), "rejected": " " + text(12)} for _ in range(100)]
    (work / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def words_of(work: Path, folder: str, steps: int, budget: float | None = None) -> list[str]:
    """The command line of the run; with a budget in GiB it trains an adapter."""
    options = {
        "model": work / "model",
        "data": work / "pairs.jsonl",
        "output-dir": work / folder,
        "reference-cache-dir": work / "cache",
        "objective": "aot",
        "beta": 0.1,
        "global-batch-size": 16,
        "micro-batch-size": 5,
        "max-steps": steps,
        "learning-rate": 1e-3,
        "lr-scheduler-type": "cosine",
        "save-steps": SAVE_STEPS,
        "save-total-limit": 2,
        "report-to": "none",
    }
    given = [f"--{name}={value}" for name, value in options.items()]
    if budget is not None:
        given += ["--lora", "--lora-r=4", "--lora-dropout=0.1", f"--memory-budget-gib={budget}"]
    return ["align", *given, "--no-disable-dropout", "--use-cpu", "--disable-tqdm"]


def start(work: Path, words: list[str], die_at: int | None = None) -> BaseProcess:
    """`distal` in a process of its own, which kills itself at an operation on a checkpoint's files if asked."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(list(IMPORTED))
    process = server.Process(target=live, args=(str(work / "output.txt"), words, die_at))
    process.start()
    return process


def live(output: str, words: list[str], die_at: int | None) -> None:
    """What the process does: count operations on the checkpoint being written, and be `distal`."""
    with open(output, "ab") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
    left = -1 if die_at is None else die_at

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if left > 0 and event in EVENTS and f"{os.sep}{STAGING}" in str(arguments[:2]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    if left > 0:
        sys.addaudithook(watch)
    sys.argv = ["distal", *words]
    from distal.cli import main as distal

    distal()


def last_step(run: Path) -> int:
    """The last step that the run has written down whole, 0 where there is none."""
    try:
        with (run / HEALTH_FILE).open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - 65_536))
            lines = stream.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return 0
    return int(json.loads(lines[-1])["step"]) if lines else 0


def usable_step(run: Path) -> int:
    """The step of the last usable checkpoint, 0 where there is none."""
    checkpoint = last_usable_checkpoint(run)
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def wait_until(process: BaseProcess, condition: Callable[[], bool]) -> None:
    """Look every few milliseconds; return as well when the process has ended."""
    while process.is_alive() and not condition():
        time.sleep(0.005)


def ended(process: BaseProcess) -> int | None:
    """Wait for a process, and return how it ended: as `subprocess` says, negative for a signal."""
    process.join()
    return process.exitcode


class Progress:
    """The last step that a process which has just been started has written down; the file is read when it changes."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.seen = self._stamp()  # until that changes, the file tells of the life before
        self.step = 0

    def reached(self, step: int) -> bool:
        """Whether it has taken a step."""
        stamp = self._stamp()
        if stamp != self.seen:
            self.seen, self.step = stamp, last_step(self.run)
        return self.step >= step

    def _stamp(self) -> tuple[int, int]:
        try:
            status = (self.run / HEALTH_FILE).stat()
        except FileNotFoundError:
            return 0, 0
        return status.st_mtime_ns, status.st_size


def one_life(
    work: Path, number: int, seed: int, steps: int, kills: int, *, lora: bool = False
) -> dict[str, Any]:
    """Resume the run (or start it), kill it at a random moment, and look at what is left."""
    run, draw = work / "killed", random.Random(f"{seed}-{number}")
    kind = KINDS[number % len(KINDS)]
    before = usable_step(run)
    pace = 2 * (steps - before) / (kills - number + 1)
    # Steps enough must be left for the kills to come.
    target = min(before + 1 + int(draw.uniform(0, pace)), steps - 6 * (kills - number))
    # Until a checkpoint remembers the choice, it depends on the budget.
    budget = draw.choice(LARGER_BUDGETS) if before else SMALL_BUDGET
    words = words_of(work, "killed", steps, budget if lora else None)
    words += ["--resume"] if (run / "run.json").exists() else []
    delay, operation = draw.uniform(0, 1), draw.randrange(1, OPERATIONS)
    begun = time.monotonic()
    progress = Progress(run)
    process = start(work, words, operation if kind == "inside the write" else None)
    if kind == "start":
        wait_until(process, lambda: time.monotonic() > begun + 3 * delay or progress.reached(before + 1))
    elif kind == "anywhere":
        wait_until(process, lambda: progress.reached(target))
        time.sleep(0.05 * delay)
    elif kind == "while writing":
        wait_until(process, lambda: progress.reached(target))
        wait_until(process, (run / STAGING).exists)
        time.sleep(0.03 * delay)
    else:
        process.join()
    process.kill()
    if ended(process) != -signal.SIGKILL:
        tail = (work / "output.txt").read_text(errors="replace")[-3000:]
        raise SystemExit(f"life {number} ({kind}) ended by itself with {process.exitcode}:\n{tail}")
    step, after = last_step(run), usable_step(run)
    left = sorted(path.name for path in (run / STAGING).glob("*")) if (run / STAGING).exists() else []
    if after < before:
        raise SystemExit(f"life {number} ({kind}) left checkpoint {after} where there was {before}")
    return {
        "kill": number + 1,
        "kind": kind,
        "operation": operation if kind == "inside the write" else None,
        "resumed_from": before,
        "killed_after_step": step,
        "usable_checkpoint": after,
        "left_half_written": left,
        "seconds": round(time.monotonic() - begun, 2),
    }


def differences(whole: Path, killed: Path) -> list[str]:
    """What is not equal between the two runs; empty if all is."""
    weights = weights_of(whole) or ""
    found = [
        name
        for name in (weights, "dominance.json", HEALTH_FILE)
        if (whole / name).read_bytes() != (killed / name).read_bytes()
    ]
    one, other = load_file(whole / weights), load_file(killed / weights)
    found += [f"weights {name}" for name in one if not torch.equal(one[name], other[name])]
    states = [
        torch.load(last_usable_checkpoint(run) / "optimizer.pt", weights_only=True)["state"]  # pyright: ignore[reportOptionalOperand]
        for run in (whole, killed)
    ]
    for key, moments in states[0].items():
        found += [
            f"optimizer {key}.{name}"
            for name, value in moments.items()
            if not torch.equal(value, states[1][key][name])
        ]
    return found


def weights_of(run: Path) -> str | None:
    """Name of the file with the result, None before there is one."""
    return next((path.name for path in run.glob("*.safetensors")), None)


def run_whole(work: Path, steps: int, *, lora: bool = False) -> None:
    """The run that nobody kills."""
    if weights_of(work / "whole"):
        return
    shutil.rmtree(work / "whole", ignore_errors=True)
    if ended(start(work, words_of(work, "whole", steps, SMALL_BUDGET if lora else None))) != 0:
        raise SystemExit((work / "output.txt").read_text(errors="replace")[-3000:])


def finish(work: Path, steps: int, *, lora: bool = False) -> None:
    """Resume the killed run for the last time, and let it come to its end."""
    if weights_of(work / "killed"):
        return
    words = words_of(work, "killed", steps, LARGER_BUDGETS[-1] if lora else None)
    if ended(start(work, [*words, "--resume"] if (work / "killed" / "run.json").exists() else words)) != 0:
        raise SystemExit((work / "output.txt").read_text(errors="replace")[-3000:])


def report(lives: list[dict[str, Any]], unequal: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything as one record."""
    by_kind = {kind: [life for life in lives if life["kind"] == kind] for kind in dict.fromkeys(KINDS)}
    return {
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "machine": platform.machine(),
        },
        "adapter": arguments.lora,
        "seed": arguments.seed,
        "steps": arguments.steps,
        "kills": len(lives),
        "unequal": unequal,
        "by_kind": {
            kind: {
                "kills": len(some),
                "left_half_written": sum(bool(life["left_half_written"]) for life in some),
                "steps_taken_again": sum(
                    max(0, life["killed_after_step"] - life["usable_checkpoint"]) for life in some
                ),
            }
            for kind, some in by_kind.items()
            if some
        },
        "lives": lives,
    }


def parse() -> argparse.Namespace:
    """Options of the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lora", action="store_true", help="an adapter, under changing memory budgets")
    parser.add_argument("--work-dir", type=Path, help="default: runs/kill-and-resume or ...-lora")
    parser.add_argument(
        "--output", type=Path, help="default: benchmarks/results/kill_and_resume.json or ..._lora"
    )
    arguments = parser.parse_args()
    lora = "lora" if arguments.lora else ""
    arguments.work_dir = arguments.work_dir or ROOT / "runs" / "-".join(
        filter(None, ["kill-and-resume", lora])
    )
    name = "_".join(filter(None, ["kill_and_resume", lora]))
    arguments.output = arguments.output or ROOT / "benchmarks" / "results" / f"{name}.json"
    return arguments


def main() -> None:
    """Kill, resume, compare."""
    arguments = parse()
    work, state = arguments.work_dir, arguments.work_dir / "lives.json"
    plan = {name: getattr(arguments, name) for name in ("kills", "steps", "seed", "lora")}
    if not state.exists():
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        prepare(work)
        state.write_text(json.dumps({**plan, "lives": []}))
    record = json.loads(state.read_text())
    if {name: record.get(name) for name in plan} != plan:
        raise SystemExit(f"{work} holds another plan ({record['kills']} kills); name another --work-dir")
    run_whole(work, arguments.steps, lora=arguments.lora)
    lives: list[dict[str, Any]] = record["lives"]
    for number in range(len(lives), arguments.kills):
        lives.append(
            one_life(work, number, arguments.seed, arguments.steps, arguments.kills, lora=arguments.lora)
        )
        state.write_text(json.dumps({**plan, "lives": lives}))
        life = lives[-1]
        seconds = sum(other["seconds"] for other in lives) / len(lives) * (arguments.kills - len(lives))
        print(
            f"kill {life['kill']:>3} of {arguments.kills}, {life['kind']:<16}: after step "
            f"{life['killed_after_step']:>4}, usable checkpoint {life['usable_checkpoint']:>4}, about "
            f"{seconds:.0f} s left",
            file=sys.stderr,
            flush=True,
        )
    finish(work, arguments.steps, lora=arguments.lora)
    result = report(lives, differences(work / "whole", work / "killed"), arguments)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(
        "| moment of the kill | kills | left a half-written checkpoint | steps taken again |\n|---|---:|---:|---:|"
    )
    for kind, counts in result["by_kind"].items():
        print(f"| {kind} | " + " | ".join(str(value) for value in counts.values()) + " |")
    if result["unequal"]:
        raise SystemExit(f"not equal to the uninterrupted run: {', '.join(result['unequal'])}")
    print(
        f"\n{len(lives)} kills in {arguments.steps} steps: weights, optimizer, certificate and health are equal."
    )


if __name__ == "__main__":
    main()
