"""A real server: `transformers serve` with a tiny random model, as a judge and as a writer of answers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from distal.data.schemas import Preference
from distal.evaluation.endpoint import ChatEndpoint, EndpointOptions
from distal.evaluation.generation import Prompt, PromptSet, SamplingOptions, ServerEngine, generate_outputs
from distal.evaluation.journal import Journal
from distal.evaluation.judging import Pair, ServerJudge, ServerJudgeOptions, judge_pairs, win_rate

pytestmark = pytest.mark.slow
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows no word but verdicts, so that each of its replies of one token is one."""
    path = tmp_path_factory.mktemp("served")
    words = ["<pad>", "<s>", "</s>", "A", "B", "TIE"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="A"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="A"
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=1.0,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def address(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "server.txt"
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve"]
    command += [str(folder), "--host=127.0.0.1", f"--port={port}", "--device=cpu"]
    with log.open("w") as file:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()
            process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 180
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)


def test_it_judges_and_it_writes(address: str, folder: Path, tmp_path: Path):
    endpoint = ChatEndpoint(EndpointOptions(base_url=address, model=str(folder), retries=0))
    judge = ServerJudge(
        endpoint, ServerJudgeOptions(request={"max_tokens": 1}, malformed_retries=0), concurrency=2
    )
    pairs = [Pair(f"p{i}", "A " * i, "B " * (9 - i)) for i in range(6)]
    journal = Journal(tmp_path / "j.jsonl")
    found = judge_pairs(pairs, judge, journal=journal, progress=False)
    replies = [judgement.raw for one in found for _, judgement in one.orders]
    assert len(replies) == 12
    assert set(replies) <= {"A", "B", "TIE", ""}
    read = sum(judgement.preference is not None for one in found for _, judgement in one.orders)
    assert read == sum(reply != "" for reply in replies) == len(journal)
    assert endpoint.budget.input_tokens > 0
    if any(one.credit is not None for one in found):
        assert 0 <= win_rate(found, judge, names=("m", "b")).win_rate <= 1

    prompts = PromptSet(
        tuple(Prompt(p.prompt, Preference(p.prompt, (), ()), "d", 0) for p in pairs), "p", 6, {}, {}
    )
    options = SamplingOptions(max_new_tokens=4)
    run = generate_outputs(
        prompts,
        ServerEngine(endpoint, options, concurrency=2),
        options,
        tmp_path / "o.json",
        generator="served",
        progress=False,
    )
    assert run.n == 6
