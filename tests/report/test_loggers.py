"""Evaluations on the way: one record each, and figures and numbers in the loggers' own hands."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers.integrations import integration_utils

from distal.errors import DataError
from distal.evaluation import dominance_certificate
from distal.evaluation.on_the_way import EVALUATIONS_FILE, EvaluationLog, evaluation_records
from distal.report.figures import reward_quantiles_figure
from distal.report.loggers import FigureLogger, pixels
from distal.training import AlignmentConfig, AlignmentTrainer


@pytest.fixture
def build(
    tmp_path: Path, make_llama: Any, make_pairs: Any, word_tokenizer: Any
) -> Callable[..., AlignmentTrainer]:
    """A trainer on a tiny model that evaluates after every step and writes that down."""

    def make(name: str = "run", *, eval_data: Any = None, **options: Any) -> AlignmentTrainer:
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path / name),
            "reference_cache_dir": str(tmp_path / "cache"),
            "global_batch_size": 8,
            "max_steps": 2,
            "learning_rate": 0.02,
            "use_cpu": True,
            "report_to": "none",
            "save_strategy": "no",
            "eval_strategy": "steps",
            "eval_steps": 1,
            "eval_on_start": True,
            "logging_steps": 1,
            "disable_tqdm": True,
        }
        trainer = AlignmentTrainer(
            make_llama(),
            args=AlignmentConfig(**(settings | options)),
            train_dataset=make_pairs(20),
            eval_dataset=make_pairs(25, seed=3) if eval_data is None else eval_data,
            processing_class=word_tokenizer,
        )
        trainer.add_callback(EvaluationLog(trainer, [FigureLogger(trainer)], resamples=50))
        return trainer

    return make


def test_every_evaluation_has_its_record(build: Callable[..., AlignmentTrainer]) -> None:
    trainer = build()
    trainer.train()
    records = evaluation_records(str(trainer.args.output_dir))
    assert [(record["step"], record["name"]) for record in records] == [(0, "eval"), (1, "eval"), (2, "eval")]
    start, last = records[0], records[-1]
    assert (start["decision"], start["violation_ratio"], start["p_value"]) == ("undefined", None, None)
    entry = next(e for e in trainer.state.log_history if e["step"] == 2 and "eval_loss" in e)
    assert last["violation_ratio"] == pytest.approx(entry["eval_dominance/violation_ratio"], abs=1e-6)
    assert last["auc"] == pytest.approx(entry["eval_dominance/auc"], abs=1e-9)
    assert last["mean_gap"] == pytest.approx(entry["eval_rewards/margins"], abs=1e-4)
    assert last["metrics"]["loss"] == pytest.approx(entry["eval_loss"])
    low, high = last["violation_ratio_ci"]
    assert low <= last["violation_ratio"] <= high
    assert len(last["preferred_quantiles"]) == len(last["levels"]) == 5


def test_each_set_is_written_once_per_step(build: Callable[..., AlignmentTrainer], make_pairs: Any) -> None:
    trainer = build(eval_data={"a": make_pairs(6, seed=1), "b": make_pairs(7, seed=2)}, eval_on_start=False)
    trainer.train()
    trainer.evaluate()
    records = evaluation_records(str(trainer.args.output_dir))
    found = [(record["step"], record["name"], record["n_preferred"]) for record in records]
    assert found == [(1, "eval_a", 6), (1, "eval_b", 7), (2, "eval_a", 6), (2, "eval_b", 7)]
    assert records[0]["intervals_reliable"] is False


def test_a_resumed_run_goes_on_with_its_records(build: Callable[..., AlignmentTrainer]) -> None:
    options = {"save_strategy": "steps", "save_steps": 1, "eval_on_start": False}
    build(**options).train()
    again = build(**options)
    again.train(resume_from_checkpoint=str(Path(str(again.args.output_dir)) / "checkpoint-1"))
    lines = (Path(str(again.args.output_dir)) / EVALUATIONS_FILE).read_text("utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_tensorboard_gets_numbers_and_a_picture(
    build: Callable[..., AlignmentTrainer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    build(report_to="tensorboard").train()
    events = EventAccumulator(str(tmp_path / "board"), size_guidance={"images": 0})
    events.Reload()
    scalars: Any = events.Tags()["scalars"]
    assert {"eval/dominance/violation_ratio", "eval/dominance/auc", "eval/rewards/margins"} <= set(scalars)
    images = events.Images("eval/reward_quantiles")
    assert [image.step for image in images] == [0, 1, 2]
    assert images[0].encoded_image_string.startswith(b"\x89PNG")
    assert images[0].width > 300


def _stand_in(monkeypatch: pytest.MonkeyPatch, name: str) -> MagicMock:
    """A logger's module that remembers its calls."""
    module = MagicMock(__spec__=ModuleSpec(name, None), __version__="99.0")
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(integration_utils, f"is_{name}_available", lambda: True)
    return module


def test_other_loggers_get_the_same_names_and_a_figure(
    build: Callable[..., AlignmentTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb, trackio, mlflow = (_stand_in(monkeypatch, name) for name in ("wandb", "trackio", "mlflow"))
    for part in ("wandb.sdk", "wandb.sdk.lib", "wandb.sdk.lib.config_util"):
        monkeypatch.setitem(sys.modules, part, MagicMock(ConfigError=ValueError))
    mlflow.utils.validation.MAX_PARAMS_TAGS_PER_BATCH = 100
    mlflow.utils.validation.MAX_PARAM_VAL_LENGTH = 250
    trackio.context_vars.current_space_id.get.return_value = None
    build(report_to=["wandb", "trackio", "mlflow"], eval_on_start=False, max_steps=1).train()
    for module in (wandb, trackio):
        logged: dict[str, Any] = {}
        for call in module.log.call_args_list:
            logged |= call.args[0]
        assert {
            "eval/dominance/violation_ratio",
            "eval/dominance/auc",
            "eval/rewards/margins",
        } <= logged.keys()
        assert logged["eval/reward_quantiles"] is module.Image.return_value
        (picture,) = module.Image.call_args.args
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3
    names = {name for call in mlflow.log_metrics.call_args_list for name in call.kwargs["metrics"]}
    assert {"eval_dominance/violation_ratio", "eval_dominance/auc"} <= names
    (call,) = mlflow.log_figure.call_args_list
    assert call.args[1] == "reward_quantiles/eval-step-00000001.png"


def test_a_logger_that_fails_is_named_once_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class TensorBoardCallback:
        tb_writer = MagicMock()

    TensorBoardCallback.tb_writer.add_image.side_effect = RuntimeError("the disk is full")
    trainer = MagicMock()
    trainer.callback_handler.callbacks = [TensorBoardCallback()]
    certificate = dominance_certificate(np.arange(30.0), np.arange(30.0) - 1, paired=True, resamples=39)
    show = FigureLogger(trainer)
    show("eval", 1, certificate)
    show("eval", 2, certificate)
    assert [record.message for record in caplog.records] == [
        "TensorBoardCallback did not take a figure, and gets no more of them: the disk is full"
    ]


def test_pixels_are_those_of_the_figure() -> None:
    certificate = dominance_certificate(np.arange(30.0), np.arange(30.0) - 1, paired=True, resamples=39)
    figure = reward_quantiles_figure({"step 1": certificate})
    figure.set_dpi(50)
    drawn = pixels(figure)
    width, height = figure.get_size_inches()
    assert drawn.shape[0] == pytest.approx(50 * height, abs=1)
    assert drawn.shape[1] == pytest.approx(50 * width, abs=1)
    assert 200 < drawn.mean() < 255
    with pytest.raises(DataError):
        reward_quantiles_figure({})
