"""Answers against token-by-token decoding here; the same whatever the batch, the interruption or the order."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distal.data import ReadOptions
from distal.data.schemas import Preference
from distal.errors import ConfigError, DataError, NonFiniteError
from distal.evaluation.endpoint import ChatEndpoint, EndpointOptions
from distal.evaluation.generation import (
    Generation,
    Prompt,
    PromptSet,
    SamplingOptions,
    ServerEngine,
    VllmEngine,
    generate_outputs,
    read_outputs,
    read_prompts,
)
from distal.evaluation.generation.draws import RowDraws
from distal.evaluation.generation.local import TransformersEngine, encode_prompts
from distal.evaluation.generation.options import row_seed
from tests.evaluation.fake_server import FakeServer, status

TEMPLATE = (
    "{% for m in messages %}{{ m.role[:1] }} {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}w9 {% endif %}"
)


def prompt(text: str, row: int = 0) -> Prompt:
    return Prompt(text, Preference(text, (), ()), "d", row)


def prompts(n: int = 11) -> tuple[Prompt, ...]:
    chooser = random.Random(0)
    texts = [
        " ".join(f"w{chooser.randrange(3, 64)}" for _ in range(1 + 3 * (i % 4))) + f" w{3 + i}"
        for i in range(n)
    ]
    return tuple(prompt(text, i) for i, text in enumerate(texts))


@pytest.fixture(scope="module")
def model(make_llama: Callable[..., Any]) -> Any:
    model = make_llama(initializer_range=0.4).eval()
    # As an instruction-tuned model's file may have it: none of this may act on its own.
    model.generation_config.temperature = 0.01
    model.generation_config.do_sample = True
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.top_k = 1
    return model


@pytest.fixture
def engine(model: Any, word_tokenizer: Any) -> Callable[..., TransformersEngine]:
    def make(rows: Sequence[Prompt], batch_size: int = 4, **options: Any) -> TransformersEngine:
        settings: dict[str, Any] = {"max_new_tokens": 12} | options
        sampling = SamplingOptions(**settings)
        encoded = encode_prompts(rows, word_tokenizer)
        return TransformersEngine(model, word_tokenizer, encoded, sampling, batch_size=batch_size)

    return make


def answers(engine: Any, rows: Sequence[Prompt], done: Collection[int] = ()) -> dict[int, Generation]:
    found: dict[int, Generation] = {}
    engine.run(rows, done, found.update, progress=False)
    return found


def decoded_here(
    model: Any, tokenizer: Any, text: str, steps: int, pick: Callable[[torch.Tensor], int]
) -> tuple[list[int], str]:
    """One token after the other, without a cache, without padding."""
    ids: list[int] = tokenizer(text)["input_ids"]
    new: list[int] = []
    for _ in range(steps):
        with torch.no_grad():
            logits = model(torch.tensor([ids + new])).logits[0, -1]
        new.append(pick(logits))
        if new[-1] == tokenizer.eos_token_id:
            break
    return new, tokenizer.decode(new, skip_special_tokens=True)


def test_greedy_answers_are_those_of_decoding_without_batch_and_cache(
    model: Any, word_tokenizer: Any, engine: Callable[..., Any]
):
    rows = prompts()
    found = answers(engine(rows), rows)
    for index, row in enumerate(rows):
        tokens, text = decoded_here(model, word_tokenizer, row.instruction, 12, lambda x: int(x.argmax()))
        assert found[index].text == text
        assert found[index].tokens == len(tokens)
        assert found[index].finish == ("stop" if tokens[-1] == 2 else "length")


def test_draws_invert_the_distribution_function(model: Any, word_tokenizer: Any, engine: Callable[..., Any]):
    rows = prompts(5)
    found = answers(engine(rows, temperature=1.7, top_k=20, seed=3), rows)
    for index, row in enumerate(rows):
        generator = torch.Generator().manual_seed(row_seed(3, row.instruction))

        def pick(logits: torch.Tensor, generator: torch.Generator = generator) -> int:
            weights = np.exp(logits.double().numpy() / 1.7)
            weights[np.argsort(weights)[:-20]] = 0
            uniform = torch.rand((), generator=generator, dtype=torch.float64).item()
            return int(np.argmax(np.cumsum(weights) > uniform * weights.sum()))

        assert found[index].text == decoded_here(model, word_tokenizer, row.instruction, 12, pick)[1]


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "top_p": 0.9}], ids=["greedy", "drawn"])
def test_neither_batch_size_nor_order_changes_an_answer(engine: Callable[..., Any], options: dict[str, Any]):
    rows = prompts()
    expected = answers(engine(rows, 1, **options), rows)
    for size in (3, 11):
        assert answers(engine(rows, size, **options), rows) == expected
    turned = rows[::-1]
    found = answers(engine(turned, 4, **options), turned)
    assert {len(rows) - 1 - index: answer for index, answer in found.items()} == expected


def test_seeds_tell_draws_apart(engine: Callable[..., Any]):
    rows = prompts()
    one, other = (answers(engine(rows, temperature=1.0, seed=seed), rows) for seed in (0, 1))
    assert one != other


def test_frequencies_of_draws():
    probabilities = torch.tensor([0.5, 0.2, 0.3, 0.0])
    n = 4000
    draws = RowDraws([row_seed(0, str(i)) for i in range(n)], SamplingOptions(temperature=1.0))
    scores = draws(torch.zeros(n, 1, dtype=torch.long), probabilities.log().expand(n, 4))
    counts = torch.bincount(scores.argmax(1), minlength=4).double() / n
    # Four standard errors of a share of one half.
    assert (counts - probabilities).abs().max() < 4 * 0.5 / n**0.5
    assert counts[3] == 0


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    draws = RowDraws([row_seed(0, str(i)) for i in range(500)], SamplingOptions(temperature=1.0, top_p=0.6))
    scores = torch.tensor([0.5, 0.2, 0.3]).log().expand(500, 3)
    assert set(draws(torch.zeros(500, 1, dtype=torch.long), scores).argmax(1).tolist()) == {0, 2}


def test_nan_logits_are_refused():
    draws = RowDraws([0], SamplingOptions(temperature=1.0))
    with pytest.raises(NonFiniteError, match="NaN"):
        draws(torch.zeros(1, 1, dtype=torch.long), torch.tensor([[0.0, float("nan")]]))


def test_stop_strings_and_tokens_end_an_answer(engine: Callable[..., Any]):
    rows = prompts()
    whole = answers(engine(rows), rows)
    words = whole[0].text.split()
    assert len(set(words)) > 1, "the model must say more than one word for this test to mean anything"
    word = next(word for word in words if word != words[0])
    for options in ({"stop": (word,)}, {"stop_tokens": (word,)}):
        cut = answers(engine(rows, **options), rows)
        for index in range(len(rows)):
            expected = whole[index].text
            place = expected.find(word) if "stop" in options else _word_at(expected, word)
            assert cut[index].text.strip() == (expected if place < 0 else expected[:place]).strip()
            if place >= 0:
                assert cut[index].finish == "stop"


def _word_at(text: str, word: str) -> int:
    return f" {text} ".find(f" {word} ")


def test_the_models_own_settings_are_left_as_they_were(model: Any, engine: Callable[..., Any]):
    before = model.generation_config.to_dict()
    rows = prompts(2)
    answers(engine(rows), rows)
    assert model.generation_config.to_dict() == before


def test_an_adapter_answers_by_itself(model: Any, word_tokenizer: Any, engine: Callable[..., Any]):
    from peft import LoraConfig, get_peft_model

    rows = prompts(3)
    base = answers(engine(rows, temperature=1.0), rows)
    adapted: Any = get_peft_model(
        copy.deepcopy(model),
        LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False),
    )
    with adapted.disable_adapter():
        assert answers(_on(adapted, rows, word_tokenizer), rows) == base
    assert answers(_on(adapted, rows, word_tokenizer), rows) != base
    assert adapted.generation_config.repetition_penalty == 5.0


def _on(model: Any, rows: Sequence[Prompt], tokenizer: Any) -> TransformersEngine:
    options = SamplingOptions(max_new_tokens=12, temperature=1.0)
    return TransformersEngine(model.eval(), tokenizer, encode_prompts(rows, tokenizer), options, batch_size=4)


def test_conversations_go_through_the_template(model: Any, word_tokenizer: Any, engine: Callable[..., Any]):
    talk = [{"role": "user", "content": "w5 w6"}]
    rows = (Prompt("w5 w6", Preference(talk, (), ()), "d", 0),)
    with pytest.raises(DataError, match="there is no chat template"):
        encode_prompts(rows, word_tokenizer)
    word_tokenizer.chat_template = TEMPLATE
    try:
        found = answers(engine(rows), rows)[0].text
    finally:
        word_tokenizer.chat_template = None
    assert found == decoded_here(model, word_tokenizer, "u w5 w6 w9", 12, lambda x: int(x.argmax()))[1]


class Stopped(Exception):
    """As good as a kill: nothing behind it is run."""


class StopsAfter:
    """An engine that dies when it has kept so many batches."""

    def __init__(self, inner: TransformersEngine, batches: int) -> None:
        self.inner, self.batches = inner, batches

    def describe(self) -> dict[str, Any]:
        return self.inner.describe()

    def run(self, prompts: Sequence[Prompt], done: Collection[int], keep: Any, *, progress: bool) -> None:
        def counted(found: Mapping[int, Generation]) -> None:
            if self.batches == 0:
                raise Stopped
            self.batches -= 1
            keep(found)

        self.inner.run(prompts, done, counted, progress=progress)


def test_an_interrupted_run_ends_with_the_same_file(engine: Callable[..., Any], tmp_path: Path):
    rows = PromptSet(prompts(), "p", 11, {}, {})
    sampling = SamplingOptions(max_new_tokens=12, temperature=1.0)

    def make(size: int = 4) -> TransformersEngine:
        return engine(rows.prompts, size, temperature=1.0)

    straight = generate_outputs(rows, make(), sampling, tmp_path / "a.json", generator="m", progress=False)
    target = tmp_path / "b.json"
    for batches in (1, 1):
        with pytest.raises(Stopped):
            generate_outputs(
                rows, StopsAfter(make(), batches), sampling, target, generator="m", progress=False
            )
        assert not target.exists()
    partial = target.with_name("b.json.partial.jsonl")
    with partial.open("ab") as file:  # and killed in the middle of a line
        file.write(b'{"key": "torn')
    said: list[str] = []
    # A smaller batch may be why it is started again: what is there still counts.
    resumed = generate_outputs(
        rows, make(3), sampling, target, generator="m", progress=False, tell=said.append
    )
    assert resumed.reused == 8
    assert "8 of 11" in said[0]
    assert target.read_bytes() == straight.outputs.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.json", "a.settings.json", "b.json", "b.settings.json"]


def test_other_settings_use_nothing_of_what_is_there(engine: Callable[..., Any], tmp_path: Path):
    rows = PromptSet(prompts(), "p", 11, {}, {})
    target = tmp_path / "b.json"
    with pytest.raises(Stopped):
        generate_outputs(
            rows,
            StopsAfter(engine(rows.prompts), 1),
            SamplingOptions(max_new_tokens=12),
            target,
            generator="m",
            progress=False,
        )
    said: list[str] = []
    changed = generate_outputs(
        rows,
        engine(rows.prompts, max_new_tokens=5),
        SamplingOptions(max_new_tokens=5),
        target,
        generator="m",
        progress=False,
        tell=said.append,
    )
    assert changed.reused == 0
    assert "not used" in said[0]


def test_empty_answers_are_counted_and_kept(tmp_path: Path):
    rows = PromptSet((prompt("a"), prompt("b")), "p", 2, {}, {})
    with FakeServer(lambda asked: "" if asked["messages"][0]["content"] == "a" else "yes") as server:
        served = ChatEndpoint(EndpointOptions(base_url=server.url, model="m"))
        run = generate_outputs(
            rows,
            ServerEngine(served, SamplingOptions()),
            SamplingOptions(),
            tmp_path / "o.json",
            generator="g",
            progress=False,
        )
    assert (run.n, run.empty) == (2, 1)
    assert json.loads((tmp_path / "o.json").read_text()) == [
        {"instruction": "a", "output": "", "generator": "g", "dataset": "d"},
        {"instruction": "b", "output": "yes", "generator": "g", "dataset": "d"},
    ]
    assert json.loads((tmp_path / "o.settings.json").read_text())["empty"] == 1
    assert read_outputs(tmp_path / "o.json").generator == "g"


def test_a_server_that_dies_costs_nothing_that_it_said(tmp_path: Path):
    rows = PromptSet(tuple(prompt(str(i), i) for i in range(8)), "p", 8, {}, {})
    target, sampling = tmp_path / "o.json", SamplingOptions()

    def run(server: FakeServer) -> Any:
        options = EndpointOptions(base_url=server.url, model="m", retries=0)
        made = ServerEngine(ChatEndpoint(options), sampling, concurrency=2)
        return generate_outputs(rows, made, sampling, target, generator="g", progress=False)

    with FakeServer(lambda asked: asked["messages"][0]["content"] * 2) as server:
        server.fail(None, None, None, *[status(500)] * 9)
        with pytest.raises(RuntimeError, match="kept"):
            run(server)
        before = server.answered
        assert before >= 3
        server.fail()
        assert run(server).reused == before
        assert server.answered == len(rows.prompts)
    assert [row.output for row in read_outputs(target).rows] == [str(i) * 2 for i in range(8)]


def test_prompts_of_every_kind_of_rows(make_pairs: Callable[..., Any], tmp_path: Path):
    pairs = make_pairs(4)
    assert [p.instruction for p in read_prompts([*pairs, *pairs]).prompts] == [row["prompt"] for row in pairs]
    outputs = [{"instruction": "q", "output": "a", "generator": "g", "dataset": "helpful"}]
    assert read_prompts(outputs).prompts[0].dataset == "helpful"
    table = tmp_path / "questions.csv"
    table.write_text('question\n"a, b"\nc\n', encoding="utf-8")
    found = read_prompts(table, column="question")
    assert [(p.instruction, p.dataset) for p in found.prompts] == [("a, b", "questions"), ("c", "questions")]
    talk = [{"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}]
    assert read_prompts(talk).prompts[0].instruction == "system: s\n\nuser: u"
    chat = read_prompts([{"prompt": "u"}], reading=ReadOptions(chat=True)).prompts[0]
    assert chat.row.prompt == [{"role": "user", "content": "u"}]
    assert len(read_prompts(pairs, limit=2).prompts) == 2


def test_columns_beside_the_prompts_do_not_matter():
    for more in ({"system": "s"}, {"messages": "m"}, {"score": 1, "id": 3}):
        assert read_prompts([{"prompt": "p", **more}]).prompts[0].instruction == "p"
    answers = [{"prompt": "p", "completion": "c"}]
    assert read_prompts(answers, column="prompt").prompts[0].instruction == "p"


def test_bad_prompts_are_counted_or_refused():
    rows = [{"prompt": "a"}, {"prompt": None}, {"prompt": "  "}, {"other": 1}, {"prompt": 3}]
    found = read_prompts(rows)
    assert found.dropped == {"bad_type": 4}
    assert "row 1" in found.summary()[1]
    with pytest.raises(DataError, match="row 1"):
        read_prompts(rows, strict=True)
    for broken, says in (([{"prompt": ""}], "no usable prompt"), ([{"x": 1}], "--prompt-column")):
        with pytest.raises(DataError, match=says):
            read_prompts(broken)


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0, "temperature": 1.0},
        {"top_p": 0.5},
        {"stop": ("",)},
    ],
)
def test_sampling_options_that_cannot_be(options: dict[str, Any]):
    with pytest.raises(ConfigError):
        SamplingOptions(**options)


def test_a_stop_token_that_is_none(engine: Callable[..., Any]):
    with pytest.raises(ConfigError, match="no token '<end>'"):
        engine(prompts(1), stop_tokens=("<end>",))


def test_vllm_is_asked_for_where_it_is_absent():
    with pytest.raises(ConfigError, match="vLLM, which is not installed"):
        VllmEngine("m", [], SamplingOptions())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "holds no answers"),
        ('[{"instruction": "a"}]', "row 0: output is absent"),
        ('[{"instruction": "a", "output": null}]', "row 0: output is null"),
        ('[{"instruction": "a", "output": "x"}, {"instruction": "a", "output": "y"}]', "more than once"),
        (
            '[{"instruction": "a", "output": "x", "generator": "m"}, '
            '{"instruction": "b", "output": "y", "generator": "n"}]',
            "several models",
        ),
        ("{", "broken JSON"),
    ],
)
def test_files_of_answers_that_cannot_be(tmp_path: Path, text: str, says: str):
    path = tmp_path / "o.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=says):
        read_outputs(path)
