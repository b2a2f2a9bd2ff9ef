"""AlpacaEval's own code: its annotator asks a local server, and its length-controlled rate is its own."""

from __future__ import annotations

import gc
import json
import logging
import random
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from distal.errors import ConfigError, ServiceError
from distal.evaluation.budget import Budget, BudgetLimits
from distal.evaluation.generation import ModelOutput, write_outputs
from distal.evaluation.journal import Journal
from distal.evaluation.judging import FunctionJudge, JudgedPair, Judgement, Pair, judge_pairs, win_rate
from distal.workflow.winrates import WinRateOptions, evaluate_win_rate
from tests.evaluation.fake_server import FakeServer, status

alpaca = pytest.importorskip("distal.evaluation.judging.alpaca")

# What the package and its libraries deprecate between each other is none of our concern.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SENTINEL = "sk-sentinel-1618033988"


@pytest.fixture(scope="module", autouse=True)
def _package() -> None:
    pytest.importorskip("sklearn")
    try:
        alpaca._imported()
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", autouse=True)
def _clients_are_gone() -> Iterator[None]:
    """The package leaves its clients, with their sockets, to the garbage collector."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


def longer(asked: dict[str, Any]) -> str:
    text = asked["messages"][-1]["content"]
    first, second = re.findall(r"\([ab]\) (.*)", text)
    return "Output (a)" if len(first) > len(second) else "Output (b)"


@pytest.fixture
def configuration(tmp_path: Path) -> Callable[..., str]:
    """A folder with a configuration that asks a chat model for Output (a) or Output (b)."""

    def make(**changes: Any) -> str:
        folder = tmp_path / "local_judge"
        folder.mkdir(exist_ok=True)
        template = "<|im_start|>user\n{instruction}\n(a) {output_1}\n(b) {output_2}\n<|im_end|>\n"
        (folder / "prompt.txt").write_text(template)
        settings = {
            "prompt_template": str(folder / "prompt.txt"),
            "fn_completions": "openai_completions",
            "completions_kwargs": {"model_name": "gpt-4-local", "max_tokens": 5, "temperature": 0},
            "completion_parser_kwargs": {"outputs_to_match": {1: r"Output \(a\)", 2: r"Output \(b\)"}},
            "batch_size": 1,
        }
        (folder / "configs.yaml").write_text(yaml.safe_dump({"local_judge": settings | changes}))
        return str(folder)

    return make


PAIRS = [
    Pair(f"p{i}", "a longer answer", "short") if i % 3 else Pair(f"p{i}", "s", "a longer answer")
    for i in range(6)
]


def judge_by(name: str, server: FakeServer, **options: Any) -> Any:
    return alpaca.AlpacaEvalJudge(name, base_url=server.url, key=SENTINEL, concurrency=2, **options)


def test_its_own_annotator_says_what_the_server_says(configuration: Callable[..., str], tmp_path: Path):
    level, handlers = logging.getLogger().level, list(logging.getLogger().handlers)
    with FakeServer(longer) as server:
        judge = judge_by(configuration(), server)
        journal = Journal(tmp_path / "j.jsonl")
        found = judge_pairs(PAIRS, judge, journal=journal, progress=False)
        assert len(server.requests) == 2 * len(PAIRS)
        assert server.headers[0]["Authorization"] == f"Bearer {SENTINEL}"
        assert judge_pairs(PAIRS, judge, journal=journal, progress=False) == found
        assert len(server.requests) == 2 * len(PAIRS)
    by_length = judge_pairs(PAIRS, FunctionJudge("length"), progress=False)
    assert [one.verdict for one in found] == [one.verdict for one in by_length]
    made = win_rate(found, judge, names=("m", "b"))
    assert made.order_agreement == 1
    assert made.first_preferred is None, "the package exchanges the answers by itself"
    assert SENTINEL not in json.dumps(made.to_dict())
    assert SENTINEL.encode() not in (tmp_path / "j.jsonl").read_bytes()
    assert "(a) {output_1}" in made.judge["prompts"]["local_judge"]
    assert (logging.getLogger().level, logging.getLogger().handlers) == (level, handlers)
    assert sorted(path.name for path in (tmp_path / "local_judge").iterdir()) == [
        "configs.yaml",
        "prompt.txt",
    ]


def test_a_constant_annotator_is_found_out(configuration: Callable[..., str]):
    name = configuration(fn_completions="test_completions", completions_kwargs={"value": "Output (a)"})
    judge = alpaca.AlpacaEvalJudge(name)
    made = win_rate(judge_pairs(PAIRS, judge, progress=False), judge, names=("m", "b"))
    assert (made.win_rate, made.order_agreement) == (0.5, 0)
    assert any("replied 'Output (a)' in all 12 questions" in note for note in made.notes)


def test_replies_that_it_cannot_read_are_failed(configuration: Callable[..., str]):
    name = configuration(fn_completions="test_completions", completions_kwargs={"value": "hm"})
    found = judge_pairs(PAIRS[:1], alpaca.AlpacaEvalJudge(name), progress=False)
    assert found[0].verdict == "failed"
    assert "no verdict" in str(found[0].orders[0][1].reason)


def test_a_server_that_fails_loses_nothing(configuration: Callable[..., str], tmp_path: Path):
    journal = Journal(tmp_path / "j.jsonl")
    with FakeServer(longer, [None, None, None, *[status(401, f"bad key {SENTINEL}")] * 2]) as server:
        with pytest.raises(ServiceError, match="AuthenticationError") as raised:
            judge_pairs(PAIRS, judge_by(configuration(), server), journal=journal, progress=False)
        assert SENTINEL not in str(raised.value)
        assert len(journal) == server.answered
        server.fail()
        limited = judge_by(configuration(), server, budget=Budget(BudgetLimits(requests=2)))
        with pytest.raises(ServiceError, match="budget of 2 requests"):
            judge_pairs(PAIRS, limited, journal=journal, progress=False)
        judge_pairs(PAIRS, judge_by(configuration(), server), journal=journal, progress=False)
        assert server.answered == 2 * len(PAIRS)


def test_configurations_that_cannot_be(configuration: Callable[..., str]):
    with pytest.raises(
        ConfigError, match=r"no annotators not_there; it knows .*weighted_alpaca_eval_gpt4_turbo"
    ):
        alpaca.AlpacaEvalJudge("not_there")
    with pytest.raises(ConfigError, match="holds openai_api_keys"):
        alpaca.AlpacaEvalJudge(configuration(completions_kwargs={"openai_api_keys": [SENTINEL]}))
    with pytest.raises(ConfigError, match="cannot use the annotators"):
        alpaca.AlpacaEvalJudge(configuration(fn_completions="none_such"))
    with pytest.raises(ConfigError, match="base_url and api_key_env have no effect"):
        alpaca.AlpacaEvalJudge(configuration(fn_completions="test_completions"), base_url="http://x/v1")


def test_the_whole_way_without_a_network(
    configuration: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(alpaca._imported().constants, "DEFAULT_CACHE_DIR", str(tmp_path / "no-hub"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    files: list[Path] = []
    for name in ("model", "baseline"):
        files.append(tmp_path / f"{name}.json")
        rows = [ModelOutput(pair.prompt, getattr(pair, name), name, "d") for pair in PAIRS[:3]]
        write_outputs(files[-1], rows)
    with FakeServer(longer) as server:
        options = WinRateOptions(
            outputs=files[0],
            baseline=files[1],
            judge="alpaca-eval",
            annotators=configuration(),
            base_url=server.url,
            cache_dir=tmp_path / "cache",
            output=tmp_path / "out",
            progress=False,
        )
        evaluate_win_rate(options)
        assert server.headers[0]["Authorization"] == "Bearer no-key"
    content = json.loads((tmp_path / "out" / "winrate.json").read_text())
    assert (content["wins"], content["losses"]) == (2, 1)
    assert content["length_controlled"] is None
    assert any("on the hub, which cannot be had" in note for note in content["notes"])
    assert content["length_adjusted"]["win_rate"] < content["win_rate"]
    assert content["versions"]["alpaca-eval"]


def hub(folder: Path, prompts: list[str], difficulty: list[float]) -> None:
    """A cache of the hub with the two files that the length-controlled rate needs, of our own content."""
    commit = "0" * 40
    repository = folder / "datasets--tatsu-lab--alpaca_eval"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    rows = [{"instruction": prompt, "output": "o", "generator": "g"} for prompt in prompts]
    (snapshot / "alpaca_eval_gpt4_baseline.json").write_text(json.dumps(rows))
    lines = ["model,index,preference,std_delta_len,instruction_difficulty,not_gamed_baseline"]
    for model, gap, share in (("verbose", 1.0, 0.6), ("concise", -1.0, 0.4)):
        lines += [f"{model},{i},{share},{gap},{value},False" for i, value in enumerate(difficulty)]
    (snapshot / "df_gamed.csv").write_text("\n".join(lines) + "\n")


def test_the_length_controlled_rate_is_the_packages_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = alpaca._imported()
    chooser = random.Random(0)
    prompts = [f"p{i}" for i in range(40)]
    hub(tmp_path, prompts, [chooser.gauss(0, 1) for _ in prompts])
    monkeypatch.setattr(package.constants, "DEFAULT_CACHE_DIR", str(tmp_path))

    def judged(prompt: str) -> JudgedPair:
        pair = Pair(prompt, "x" * chooser.randrange(50, 400), "y" * chooser.randrange(10, 100))
        credit = float(len(pair.model) > len(pair.baseline)) if chooser.random() < 0.9 else 0.0
        return JudgedPair(pair, ((False, Judgement(1 - credit, "r")), (True, Judgement(credit, "r"))))

    found = [judged(prompt) for prompt in prompts]
    raw = sum(one.credit or 0 for one in found) / len(found)
    chooser.shuffle(found)  # the order of the file is the package's own, not ours
    one = alpaca.length_controlled_win_rate(found, ("m", "b"))
    chooser.shuffle(found)
    assert alpaca.length_controlled_win_rate(found, ("m", "b")) == one
    assert "alpaca_eval" in one["source"]
    assert raw > 0.7
    assert 0 < one["win_rate"] < raw, "wins that go with length count less at equal length"
    with pytest.raises(ConfigError, match="own 40 prompts, of which 39 are among these 39"):
        alpaca.length_controlled_win_rate(found[1:], ("m", "b"))


def test_without_the_hub_the_reason_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(alpaca._imported().constants, "DEFAULT_CACHE_DIR", str(tmp_path))
    with pytest.raises(
        ConfigError, match="files of the data set tatsu-lab/alpaca_eval on the hub, which cannot be had"
    ):
        alpaca.length_controlled_win_rate([], ("m", "b"))
