"""The report page without a browser: what it reads, what it states, and that nothing in it can do anything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from distal.errors import ConfigError, DataError
from distal.evaluation import DominanceCertificate
from distal.report.page import page_html, read_runs, statements
from distal.report.page.generations import Generation, RunSamples, side_by_side
from distal.report.page.run import CONFIG_FILES, STATE_FILES
from distal.report.page.views.samples import island_json, sample_view
from distal.workflow import run_folder
from distal.workflow.data_verbs import CheckOptions
from distal.workflow.data_verbs import check as check_data
from tests.report.run_folders import (
    HOSTILE,
    add_evaluations,
    certificate,
    generations,
    log_history,
    make_run,
    write_json,
    write_lines,
)


class Elements(HTMLParser):
    """The elements of a page as a parser of HTML sees them: name, attributes, text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._open = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif self._open != "style":
            self.text += data

    def island(self, name: str) -> Any:
        """Content of a block of JSON."""
        return next(json.loads(text) for attributes, text in self.scripts if attributes.get("id") == name)


def page(*folders: Path) -> Elements:
    return Elements(page_html(read_runs(folders), made="today"))


def test_the_page_draws_what_the_certificate_holds(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    held = DominanceCertificate.from_dict(json.loads((run / "dominance.json").read_text("utf-8")))
    plots = page(run).island("plot-data")
    preferred, other = plots["quantiles-0"]["curves"]
    (gap,) = plots["gap"]["curves"]
    for drawn, known in (
        (preferred["x"], held.levels),
        (preferred["y"], held.preferred_quantiles),
        (other["y"], held.other_quantiles),
        (gap["y"], held.curves.gap),
        (gap["low"], held.curves.gap_low),
        (gap["high"], held.curves.gap_high),
    ):
        assert drawn == pytest.approx(known, rel=1e-5)
    assert (preferred["role"], other["role"]) == ("preferred", "other")
    loss = plots["training-loss"]["curves"]
    assert loss[0]["y"] == pytest.approx([1 / step for step in range(1, 31)], rel=1e-5)
    assert (loss[1]["x"], loss[1]["dash"]) == ([10, 20, 30], True)


@pytest.mark.parametrize(
    ("law", "decision", "words"),
    [
        ({"n": 400, "shift": 4.0}, "dominance", ("dominate the others", "every quantile level", "95 %")),
        (
            {"n": 200, "shift": 0.5},
            "almost_dominance",
            ("almost dominate the others", "of 99 quantile levels"),
        ),
        (
            {"n": 200, "shift": 0.0},
            "not_supported",
            ("not supported", "cannot be claimed with 95 % confidence"),
        ),
        ({"n": 10, "shift": 4.0}, "not_supported", ("not supported", "10 samples on a side are too few")),
        ({"n": 200, "shift": -2.0}, "not_supported", ("other responses almost dominate", "wrong way round")),
    ],
)
def test_headlines_say_what_was_decided(
    tmp_path: Path, law: dict[str, Any], decision: str, words: tuple[str, str]
) -> None:
    held = certificate(**law)
    assert held.decision == decision
    (said,) = statements(read_runs([make_run(tmp_path / "run", **law)]))["runs"]
    assert said["certificate"]["decision"] == decision
    assert said["certificate"]["verdict"] == held.verdict
    for part in words:
        assert part in f"{said['headline']}. {said['sentence']}"


def test_the_newer_certificate_comes_first_and_later_versions_are_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    newer = certificate(n=200, shift=0.5).to_dict() | {
        "schema": "distal.dominance/2",
        "test": {"null": "the ratio is at least 0.25", "p_value": 0.012, "method": "bootstrap"},
        "second_order": {
            "violation_ratio": 0.5,
            "violation_ratio_ci": [0.25, 0.75],
            "verdict": "Second: no.",
        },
        "slices": {"slices": [{"attribute": "source", "value": "a & b", "n_preferred": 7, "n_other": 6}]},
        "comparisons": [{"run": "one", "other": "two", "violation_ratio": 0.125, "verdict": "One over two."}],
        "unheard_of": [{"name": "thing", "value": 3.5}],
    }
    write_json(run / "evaluation" / "dominance.json", newer)
    (known,) = read_runs([run])
    assert [one.file for one in known.certificates] == ["evaluation/dominance.json", "dominance.json"]
    assert not known.problems
    text = page(run).text
    for part in ("p = 0.012", "Second: no.", "source = a & b", "7 / 6", "One over two.", "Unheard of", "3.5"):
        assert part in text


def test_a_set_of_certificates_is_read(tmp_path: Path) -> None:
    held = certificate().to_dict()
    content = {
        "schema": "distal.dominance-set/1",
        "certificates": {"one": held, "two": held},
        "comparisons": [],
    }
    write_json(tmp_path / "dominance.json", content)
    (known,) = read_runs([tmp_path])
    assert [one.file for one in known.certificates] == ["dominance.json: one", "dominance.json: two"]


def test_nothing_in_a_page_can_do_anything(tmp_path: Path) -> None:
    plain = add_evaluations(make_run(tmp_path / "plain"))
    expected = [tag for tag, _ in page(plain).found]
    name = "<img src=x onerror=window.hacked=1>"
    run = add_evaluations(make_run(tmp_path / name, options={"model": HOSTILE, "note": HOSTILE}))
    write_json(
        run / "run.json", {"state": HOSTILE, "command": HOSTILE, "steps": 30, "versions": {HOSTILE: HOSTILE}}
    )
    for stage in ("before", "after"):
        path = run / "evaluation" / "generations" / f"{stage}.json"
        rows = json.loads(path.read_text("utf-8"))
        write_json(
            path, [row | {"instruction": HOSTILE, "output": HOSTILE, "dataset": HOSTILE} for row in rows]
        )
    finding = {"guard": HOSTILE, "message": HOSTILE, "advice": HOSTILE}
    write_lines(run / "health.jsonl", [{"step": 1, "findings": [finding]}])
    (run / "evaluation" / "benchmarks.json").write_text("{" + HOSTILE, encoding="utf-8")
    found = page(run)
    allowed = {("a", "href"): ("#",), ("link", "href"): ("data:,",)}
    for tag, attributes in found.found:
        assert tag in expected or tag in ("ul", "li", "strong", "code"), tag
        for attribute, value in attributes.items():
            assert not attribute.startswith("on"), (tag, attribute)
            assert attribute != "src"
            assert attribute != "href" or str(value).startswith(allowed[tag, attribute])
    assert sum(tag == "script" for tag, _ in found.found) == expected.count("script")
    assert "<script>window.hacked=1</script>" in found.text  # there, and nothing but text
    rows = found.island("sample-data")["rows"]
    assert {row[0] for row in rows} == {HOSTILE}
    policy = next(a["content"] for _, a in found.found if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'; script-src 'sha256-")


@pytest.mark.parametrize("text", [HOSTILE, "\ud800 half", "\u2028\u2029", "&amp;<![CDATA[", ""])
def test_json_survives_in_a_page(text: str) -> None:
    html = f"<p><script type='application/json' id='x'>{island_json([text])}</script><b>after</b>"
    parsed = Elements(html)
    assert parsed.island("x") == [text.replace("\ud800", "?")]
    assert parsed.text == "after"


def test_runs_are_compared(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a" / "run"),
        make_run(tmp_path / "b" / "run", objective="dpo", options={"beta": 0.1}),
    ]
    found = page(*runs)
    names = [curve["name"] for curve in found.island("plot-data")["gap"]["curves"]]
    assert names == ["a/run", "b/run"]
    said = statements(read_runs(runs))
    assert said["differences"] == {
        "beta": {"a/run": "not set", "b/run": "0.1"},
        "objective": {"a/run": "aot", "b/run": "dpo"},
    }
    assert said["comparability"] == []
    other = make_run(tmp_path / "other", options={"eval_data": "elsewhere.jsonl", "model": "base2"})
    cautions = statements(read_runs([*runs, other]))["comparability"]
    assert "different data (elsewhere.jsonl; held_out.jsonl)" in cautions[0]
    assert "different references (base, base2)" in cautions[1]
    assert all(line in page(*runs, other).text for line in cautions)


def test_the_check_of_the_data_is_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert "train.jsonl: 9 rows read" in page(run).text
    rows = [{"prompt": "p", "chosen": f"a {n}", "rejected": "" if n == 1 else "b"} for n in range(30)]
    data = write_lines(tmp_path / "pairs.jsonl", rows)
    check = check_data(CheckOptions(data=str(data)))
    write_json(run / "data.json", check.to_dict())
    text = page(run).text
    assert check.lengths is not None
    for part in (
        "usable with warnings",
        "rows read",
        "30",
        "a completion is empty",
        "Lengths of completions, characters",
    ):
        assert part in text
    for finding in check.findings:
        assert finding.message in text
    assert f"{check.lengths.mean_liked:,.1f}" in text


def test_samples_are_matched_by_instruction(tmp_path: Path) -> None:
    def texts(*pairs: tuple[str, str]) -> tuple[Generation, ...]:
        return tuple(Generation(instruction=i, output=o, source="") for i, o in pairs)

    before = texts(("q", "1"), ("twice", "2"), ("twice", "3"))
    outcomes: Any = {"twice": ("win", "loss")}
    one = RunSamples(
        files=("f",),
        before=before,
        after=texts(("twice", "a"), ("q", "b"), ("twice", "c")),
        outcomes=outcomes,
    )
    table = side_by_side([("run", one)])
    assert table is not None
    assert table.texts == (("1", "b"), ("2", "a"), ("3", "c"))
    assert table.outcomes == ((None,), ("win",), ("loss",))
    two = RunSamples(
        files=("g",),
        before=before,
        after=texts(
            ("new", "x"),
        ),
        outcomes={},
    )
    both = side_by_side([("one", one), ("two", two)])
    assert both is not None
    assert both.columns == ("before alignment", "one: after", "two: after")
    assert both.texts == (("1", "b", None), ("2", "a", None), ("3", "c", None), (None, None, "x"))


def test_judgements_of_other_texts_are_left_out(tmp_path: Path) -> None:
    run = add_evaluations(make_run(tmp_path / "run"), n=6)
    (known,) = read_runs([run])
    assert known.samples is not None
    assert known.samples.files == ("evaluation/generations/before.json", "evaluation/generations/after.json")
    assert {known.samples.outcomes[f"question {place}"] for place in (1, 4)} == {("win",)}
    after = run / "evaluation" / "generations" / "after.json"
    rows = json.loads(after.read_text("utf-8"))
    write_json(after, [rows[0], *(row | {"output": "something else"} for row in rows[1:])])
    (known,) = read_runs([run])
    assert known.samples is not None
    assert list(known.samples.outcomes) == ["question 0"]
    assert "judges 5 texts that are not those shown" in known.problems[0].message


def test_what_is_known_of_the_way(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    evaluated = [
        {"step": step, "name": "eval", "auc": step / 100, "auc_ci": [0.0, 1.0], "violation_ratio": None}
        for step in (10, 20)
    ]
    write_lines(
        run / "evaluations.jsonl", [*evaluated, {"step": 20, "name": "eval_two", "auc": 9, "auc_ci": [9, 9]}]
    )
    write_lines(run / "samples.jsonl", [{"step": 10, "prompt": HOSTILE, "answer": "an answer"}])
    found = page(run)
    (curve,) = found.island("plot-data")["training-auc"]["curves"]
    assert (curve["x"], curve["y"], curve["high"]) == ([10, 20], [0.1, 0.2], [1, 1])
    assert "training-violation" not in found.island("plot-data")
    assert "an answer" in found.text


def test_texts_are_cut_to_the_budget() -> None:
    long = tuple(Generation(instruction=f"q{place}", output="é<" * 600, source="") for place in range(50))
    table = side_by_side([("run", RunSamples(files=("f",), before=(), after=long, outcomes={}))])
    assert table is not None
    whole = sample_view(table, 1_000_000)
    assert (whole.cut, whole.shown) == (None, 50)
    for budget, shown in ((100_000, 50), (10_000, 18)):
        cut = sample_view(table, budget)
        assert cut.shown == shown
        assert cut.cut is not None
        assert 0.6 * budget < len(island_json(cut.data["rows"]).encode()) <= budget
        assert cut.data["rows"][0][3] == [1200]  # the length is that of the whole text


def test_curves_come_from_tensorboard_where_the_checkpoint_ends_early(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    run = make_run(tmp_path / "run")
    (checkpoint,) = (one.training for one in read_runs([run]))
    assert checkpoint is not None
    assert checkpoint.source == "checkpoint-30/trainer_state.json"
    write_json(run / "checkpoint-30" / "trainer_state.json", {"log_history": log_history(20)})
    with SummaryWriter(str(run / "runs" / "now")) as writer:
        for entry in log_history(30):
            for name, value in entry.items():
                if name not in ("step", "epoch"):
                    tag = name.replace("eval_", "eval/") if name.startswith("eval_") else f"train/{name}"
                    writer.add_scalar(tag, value, entry["step"])
    (logged,) = (one.training for one in read_runs([run]))
    assert logged is not None
    assert logged.source == "runs/now"
    assert (
        logged.series.keys()
        == checkpoint.series.keys()
        == {"loss", "eval_loss", "rewards/chosen", "rewards/rejected"}
    )
    for name, series in checkpoint.series.items():
        assert logged.series[name].steps == series.steps
        assert logged.series[name].values == pytest.approx(series.values)


def test_what_is_missing_is_told_with_the_command_that_makes_it(tmp_path: Path) -> None:
    certificate().save(tmp_path / "dominance.json")
    (said,) = statements(read_runs([tmp_path]))["runs"]
    assert {item["file"] for item in said["missing"]} == {
        "evaluation/winrate.json",
        "evaluation/benchmarks.json",
        "evaluation/generations/before.json and after.json",
        "runs/",
        "health.jsonl",
        "data.json",
        "distal.yaml",
    }
    text = page(tmp_path).text
    assert all(item["what"] in text for item in said["missing"])
    assert said["problems"] == []


BROKEN = {
    "dominance.json": ('{"schema": "distal.dominance/1", "curves', "is no JSON"),
    "run.json": ("[1]", "holds no named values"),
    "distal.yaml": ("a: [", "is no YAML"),
    "health.jsonl": ('{"step": 1}\nx\n{"step": 3}\n{"step": 4}\n', "is broken after step 1"),
    "evaluation/winrate.json": (
        '{"schema": "distal.winrate/1", "win_rate": NaN}',
        "no win rate that is a number",
    ),
    "evaluation/benchmarks.json": ('{"schema": "other"}', "its schema is 'other'"),
    "evaluation/generations/after.json": ('[3, {"instruction": "q", "output": ""}]', "row 0: no output"),
    "evaluation/judgements.jsonl": ("[]\n{}\n", "line 1: no JSON object"),
    "checkpoint-30/trainer_state.json": ("\xff{", "is no JSON"),
    "runs/x/events.out.tfevents.1": ("no events", "is no TensorBoard log"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_and_the_rest_is_shown(tmp_path: Path, name: str) -> None:
    run = add_evaluations(make_run(tmp_path / "run"))
    content, complaint = BROKEN[name]
    if name.startswith("runs/"):
        (run / "checkpoint-30" / "trainer_state.json").unlink()
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).write_text(content, encoding="utf-8")
    (known,) = read_runs([run])
    named = {problem.file: problem.message for problem in known.problems}
    assert named.keys() - {name} <= {"evaluation/judgements.jsonl"}  # of texts that are gone
    assert complaint in named[name]
    found = page(run)
    assert name in found.text
    assert complaint in found.text
    assert ("gap" in found.island("plot-data")) == (name != "dominance.json")


def test_values_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    held = json.loads(json.dumps(certificate().to_dict()))
    held["curves"]["u"][3] = float("nan")
    write_json(run / "dominance.json", held | {"auc": float("inf"), "mean_gap": None, "accuracy": "much"})
    history = [*log_history(30), {"step": 31, "loss": float("nan")}, {"step": None, "loss": 1.0}]
    write_json(run / "checkpoint-30" / "trainer_state.json", {"log_history": history})
    (known,) = read_runs([run])
    shown, training = known.certificate, known.training
    assert shown is not None
    assert training is not None
    assert shown.curves is not None
    assert (len(shown.curves.levels), shown.auc, shown.mean_gap, shown.accuracy) == (98, None, None, None)
    assert (training.last_step, training.not_finite) == (30, 1)
    assert "1 logged value was not finite" in page(run).text
    json.dumps(statements([known]), allow_nan=False)


def test_empty_generations_and_empty_texts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_json(run / "generations" / "after.json", [])
    assert read_runs([run])[0].samples is None
    write_json(run / "generations" / "after.json", generations([("q", ""), ("r", None)]))
    (_, row) = page(run).island("sample-data")["rows"]
    assert row[2:4] == [[None], [None]]


def folders(tmp_path: Path) -> Iterator[tuple[list[Path], type[Exception], str]]:
    run = make_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    yield [], ConfigError, "no run to report on"
    yield [tmp_path / "absent"], DataError, "there is no folder"
    yield [tmp_path / "empty"], DataError, "holds no run.*found nothing"
    yield [run / "dominance.json"], DataError, "is a file"
    yield [run / "checkpoint-30"], DataError, "found trainer_state.json"
    yield [run, run / ".." / "run"], ConfigError, "given twice"


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    for given, error, message in folders(tmp_path):
        with pytest.raises(error, match=message):
            read_runs(given)


def test_names_of_files_agree_with_those_that_write_them() -> None:
    assert run_folder.STATE_FILE in STATE_FILES
    assert run_folder.CONFIG_FILE in CONFIG_FILES
