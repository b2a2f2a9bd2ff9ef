"""From YAML and command line to options and back: types, messages, and the round trip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from distal.errors import ConfigError
from distal.training import AlignmentConfig
from distal.workflow import AlignOptions, DataOptions, LoraOptions, ModelOptions, resolve_options
from distal.workflow.resolve import differing_keys, objective_settings, resolved_mapping, resolved_yaml

NEEDED = ("--model=m", "--data=d.jsonl", "--output-dir=out")


def resolve(*words: str, config: Path | None = None, needed: tuple[str, ...] = NEEDED) -> AlignOptions:
    return resolve_options(config, [*needed, *words])


def refused(*words: str, **kwargs: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(*words, **kwargs)
    return str(caught.value)


def in_yaml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text("model: m\ndata: d.jsonl\noutput_dir: out\n" + text)
    return path


def test_defaults() -> None:
    options = resolve()
    assert (options.model.model, options.data.data, options.training.output_dir) == ("m", "d.jsonl", "out")
    assert options.training.objective == "aot"
    assert options.data.held_out == 0.1
    assert options.lora.peft_config() is None


def test_command_line_wins_over_the_file(tmp_path: Path) -> None:
    config = in_yaml(tmp_path, "learning_rate: 1e-5\nseed: 3\n")
    options = resolve("--learning-rate", "2e-5", config=config, needed=())
    assert options.training.learning_rate == 2e-5
    assert options.training.seed == 3


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("learning_rate: 1e-5", "learning_rate", 1e-5),
        ("learning_rate: '1e-5'", "learning_rate", 1e-5),
        ("learning_rate: 1", "learning_rate", 1.0),
        ("seed: '7'", "seed", 7),
        ("bf16: no", "bf16", False),
        ("bf16: off", "bf16", False),
        ("run_name: 0123", "run_name", "0123"),
        ("run_name: 1e5", "run_name", "1e5"),
        ("lr_scheduler_type: cosine", "lr_scheduler_type", "cosine"),
        ("lr_scheduler_kwargs: {num_cycles: 2}", "lr_scheduler_kwargs", {"num_cycles": 2}),
        ("save_total_limit: null", "save_total_limit", None),
        ("report_to: none", "report_to", []),
        ("eval_strategy: no", "eval_strategy", "no"),
    ],
)
def test_values_become_the_type_of_the_option(tmp_path: Path, text: str, name: str, value: object) -> None:
    options = resolve(config=in_yaml(tmp_path, text + "\n"), needed=())
    assert getattr(options.training, name) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: yes", "seed: expected a whole number, got yes"),
        ("seed: true", "seed: expected a whole number, got true"),
        ("seed: 1.5", "seed: expected a whole number, got 1.5"),
        ("learning_rate: fast", "learning_rate: expected a number, got 'fast'"),
        ("learning_rate: .nan", "learning_rate: expected a number, got .nan"),
        ("bf16: maybe", "bf16: expected true or false, got 'maybe'"),
        ("bf16: 2", "bf16: expected true or false, got 2"),
        ("run_name: [a]", "run_name: expected text or null, got ['a']"),
        ("lora: {r: 8}", "lora: expected true or false, got {'r': 8}"),
        ("dtype: fp16", "dtype: expected one of auto, float32, bfloat16, float16, float64, got 'fp16'"),
        ("optim: adam", "optim: expected one of adamw_torch, adamw_torch_fused"),
        ("max_length:", "max_length: expected a whole number, got "),
    ],
)
def test_values_of_the_wrong_type_name_option_place_and_expectation(
    tmp_path: Path, text: str, message: str
) -> None:
    config = in_yaml(tmp_path, text + "\n")
    found = refused(config=config, needed=())
    assert f"{config}:4: {message}".replace("'", "") in found.replace("'", "")


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("--lerning-rate=1", "learning_rate"),
        ("--global-batchsize=1", "global_batch_size"),
        ("--model-name-or-path=x", "model"),
        ("--use-peft", "lora"),
        ("--loss-type=dpo", "objective"),
        ("--dataset_name=x", "data"),
    ],
)
def test_unknown_options_suggest_the_nearest(word: str, nearest: str) -> None:
    assert f"no such option; did you mean {nearest}" in refused(word)


def test_unknown_option_like_nothing_else() -> None:
    assert "no such option; `distal align --help` lists them" in refused("--zzzzqqq=1")


def test_options_without_effect_say_what_to_do_instead() -> None:
    assert "use the switch --resume" in refused("--resume-from-checkpoint=x")
    assert "set global_batch_size" in refused("--per-device-train-batch-size=8")


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("data: d\nseed: x\nseed: 3\nlora_r: 4\nobjectiv: dpo\nbeta: -1\n")
    message = refused("--max-steps=many", config=config, needed=())
    assert message.startswith("8 problems")
    for part in (
        f"{config}:2: seed: expected a whole number",
        f"{config}:3: seed is given twice",
        f"{config}:5: objectiv: no such option; did you mean objective",
        "command line: max_steps: expected a whole number",
        "model is missing",
        "output_dir is missing",
        "lora_r: no effect without lora",
        "beta",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lora-r=4"], "lora_r: no effect without lora"),
        (["--lora-alpha=4", "--lora-dropout=0.1"], "lora_alpha, lora_dropout: no effect without lora"),
        (["--eval-size=5", "--eval-data=e.jsonl"], "eval_size has no effect beside eval_data"),
        (["--eval-size=0"], "eval_size must be a fraction between 0 and 1, or a whole number"),
        (["--eval-size=1.5"], "eval_size must be"),
        (["--lora", "--adapter=a"], "lora starts a new adapter and `adapter` goes on"),
        (["--lora", "--lora-r=0"], "lora_r and lora_alpha must be at least 1"),
        (["--lora", "--lora-dropout=1"], "lora_dropout must lie in"),
        (["--gradient-accumulation-steps=4"], "gradient_accumulation_steps: 4 is not supported"),
        (["--objective=dpo", "--cost=hinge"], "cost"),
        (["--margin=1"], "margin"),
        (
            ["--load-best-model-at-end", "--eval-strategy=no"],
            "eval_strategy is no and save_strategy is steps; set eval_strategy and save_strategy alike",
        ),
        (
            ["--load-best-model-at-end", "--eval-strategy=steps", "--eval-steps=4", "--save-steps=6"],
            "transformers refuses these training options: --load_best_model_at_end requires",
        ),
        (
            ["--num-train-epochs=-1"],
            "num_train_epochs: expected a number above 0, got -1.0; or set max_steps",
        ),
        (["--num-train-epochs=0"], "num_train_epochs: expected a number above 0, got 0.0"),
    ],
)
def test_contradictions_and_idle_options(words: list[str], message: str) -> None:
    assert message in refused(*words)


def test_epochs_do_not_count_where_steps_do() -> None:
    assert resolve("--num-train-epochs=0", "--max-steps=3").training.max_steps == 3


@pytest.mark.parametrize("save_strategy", ["epoch", "best"])
def test_best_of_checkpoints_that_are_evaluated(save_strategy: str) -> None:
    options = resolve("--load-best-model-at-end", "--eval-strategy=epoch", f"--save-strategy={save_strategy}")
    assert options.training.load_best_model_at_end


def test_all_lines_of_what_transformers_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object) -> None:
        raise ValueError("these must match, but found\n- one: a\n- other: b")

    monkeypatch.setattr("transformers.TrainingArguments.__post_init__", refuse)
    assert "these must match, but found - one: a - other: b" in refused()


@pytest.mark.parametrize(
    ("text", "words", "left"),
    [
        # (split, eval_split) that stay: those of data which is still the one they belong to
        ("split: a\neval_split: b", [], ("a", "b")),
        ("split: a\neval_split: b", ["--data=d.jsonl"], ("a", "b")),
        ("split: a\neval_split: b", ["--data=other"], (None, None)),
        ("split: a\neval_split: b", ["--data=other", "--eval-split=c"], (None, "c")),
        ("split: a\neval_split: b", ["--data=other", "--split=c"], ("c", None)),
        ("split: a\neval_split: b", ["--eval-data=other"], ("a", None)),
        ("split: a\neval_data: e\neval_split: b", ["--data=other"], (None, "b")),
        ("split: a\neval_data: e\neval_split: b", ["--eval-data=other"], ("a", None)),
        ("split: a\neval_data: e\neval_split: b", ["--eval-data=null"], ("a", None)),
    ],
)
def test_splits_of_a_file_do_not_outlive_its_data(
    tmp_path: Path, text: str, words: list[str], left: tuple[str | None, str | None]
) -> None:
    options = resolve(*words, config=in_yaml(tmp_path, text + "\n"), needed=())
    assert (options.data.split, options.data.eval_split) == left
    told = [name for name, split in zip(("split", "eval_split"), left, strict=True) if split is None]
    assert [note.split(":")[0] for note in options.notes] == told


def test_split_without_data_in_the_file_is_meant_for_any(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("split: validation\n")
    options = resolve(config=config)
    assert (options.data.split, options.notes) == ("validation", ())


def test_resume_and_overwrite_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="--resume goes on with a run, --overwrite discards it"):
        resolve_options(None, NEEDED, resume=True, overwrite=True)


def test_resume_is_no_matter_for_the_file(tmp_path: Path) -> None:
    assert "switch of the command line only" in refused(
        config=in_yaml(tmp_path, "overwrite: true\n"), needed=()
    )


@pytest.mark.parametrize(("size", "held_out"), [("5", 5), ("0.25", 0.25), ("3.0", 3)])
def test_eval_size_is_a_count_or_a_fraction(size: str, held_out: float) -> None:
    result = resolve(f"--eval-size={size}").data.held_out
    assert result == held_out
    assert isinstance(result, type(held_out))


@pytest.mark.parametrize("word", ["--eval-data=e.jsonl", "--eval-split=test"])
def test_nothing_is_cut_off_where_held_out_data_has_its_own_source(word: str) -> None:
    assert resolve(word).data.held_out is None


def test_lora_settings_reach_peft() -> None:
    words = ("--lora", "--lora-r=4", "--lora-alpha=8", "--lora-target-modules=q_proj,v_proj", "--lora-rslora")
    config = resolve(*words).lora.peft_config()
    assert config is not None
    assert (config.r, config.lora_alpha, config.use_rslora) == (4, 8, True)
    assert set(config.target_modules or ()) == {"q_proj", "v_proj"}


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ([], {"cost": "logistic", "beta": 0.01, "label_smoothing": 0.0, "sort": "hard"}),
        (["--beta=0.5"], {"cost": "logistic", "beta": 0.5, "label_smoothing": 0.0, "sort": "hard"}),
        (
            ["--cost=hinge", "--margin=2"],
            {"cost": "hinge", "margin": 2.0, "label_smoothing": 0.0, "sort": "hard"},
        ),
        (["--objective=dpo"], {"beta": 0.1, "label_smoothing": 0.0}),
    ],
)
def test_objective_settings_as_they_act(words: list[str], settings: dict[str, Any]) -> None:
    assert settings.items() <= objective_settings(resolve(*words).training).items()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--objective=dpo", "--beta=0.2", "--micro-batch-size=2"],
        ["--objective=sft", "--per-token"],
        ["--objective=aot_unpaired", "--cost=squared_hinge", "--eval-size=7"],
        ["--lora", "--lora-target-modules=[q_proj, v_proj]", "--eval-data=e.jsonl", "--dtype=bfloat16"],
        [
            "--lr-scheduler-type=cosine",
            "--lr-scheduler-kwargs={num_cycles: 2}",
            "--warmup-steps=0.1",
            "--bf16",
            "--use-cpu",
        ],
        ["--report-to=none", "--save-total-limit=2", "--run-name=0123", "--seed=5", "--eval-split=test"],
        ["--report-to=[tensorboard]", "--max-steps=7", "--eval-strategy=steps", "--eval-steps=2"],
    ],
)
def test_resolved_file_gives_the_same_options(tmp_path: Path, words: list[str]) -> None:
    first = resolve(*words)
    path = tmp_path / "distal.yaml"
    path.write_text(resolved_yaml(first))
    second = resolve_options(path, [])
    assert resolved_mapping(second) == resolved_mapping(first)
    assert (second.model, second.data.held_out, second.lora) == (first.model, first.data.held_out, first.lora)
    ours, theirs = first.training.to_dict(), second.training.to_dict()
    assert {key for key in ours if ours[key] != theirs[key]} <= set(objective_settings(first.training))
    assert differing_keys(second, first) == []
    assert yaml.safe_load(path.read_text()) == resolved_mapping(first)


def test_resolved_file_and_messages_hold_no_secret() -> None:
    training = AlignmentConfig(output_dir="o", report_to="none", hub_token="hf_secret")
    options = AlignOptions(model=ModelOptions(model="m"), data=DataOptions(data="d"), training=training)
    assert "hf_secret" not in resolved_yaml(options)
    assert "hf_secret" not in refused("--hub-token=hf_secret")


def test_differing_keys_names_what_would_be_learnt_differently_and_nothing_else() -> None:
    recorded = resolve("--micro-batch-size=4")
    assert (
        differing_keys(resolve("--micro-batch-size=1", "--logging-steps=1", "--save-total-limit=1"), recorded)
        == []
    )
    assert differing_keys(resolve("--learning-rate=1", "--run-name=x"), recorded) == [
        "learning_rate: the run has 1e-06, now 1.0"
    ]
    assert differing_keys(resolve("--reference=r"), recorded) == ["reference: the run has None, now 'r'"]


def test_options_can_be_made_in_python() -> None:
    options = AlignOptions(
        model=ModelOptions(model="m"),
        data=DataOptions(data="d"),
        training=AlignmentConfig(output_dir="o", report_to="none"),
    )
    assert options.lora == LoraOptions()
    assert resolved_mapping(options)["model"] == "m"
