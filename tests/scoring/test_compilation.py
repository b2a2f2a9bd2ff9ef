"""Compiled blocks: scores and gradients of the uncompiled ones, few graphs for many lengths, and a way back."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch

from distal.errors import ConfigError
from distal.scoring import PACKED, PADDED, PREFIX_SHARED, score_rows
from distal.scoring.compilation import check_backend, compile_blocks, has_compiled_blocks, uncompiled
from tests.scoring.architectures import ARCHITECTURES, model_of, random_rows

# Dynamo looks at tensors inside a graph in a way that PyTorch itself warns of.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")

ROWS = random_rows()


class Counting:
    """A backend that runs graphs as they are, and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, _inputs: Any) -> Any:
        self.graphs += 1
        return graph.forward


def scores_and_gradients(model: Any, rows: Any, layout: Any) -> tuple[Any, Any]:
    scores = score_rows(model, rows, layout)
    weights = torch.linspace(-1, 1, len(rows))
    return scores.detach(), torch.autograd.grad((scores * weights).sum(), list(model.parameters()))


@pytest.mark.parametrize(("name", "layout"), [("llama", PREFIX_SHARED), ("gemma2", PADDED)])
def test_compiled_blocks_score_alike_whatever_the_lengths(name, layout):
    model, backend = model_of(ARCHITECTURES[name]), Counting()
    parts = [ROWS[:3], ROWS[4:10], ROWS[9:], ROWS[2:5]]
    expected = [scores_and_gradients(model, rows, layout) for rows in parts]
    names = list(model.state_dict())
    assert compile_blocks([model], layout, backend=backend)
    found = [scores_and_gradients(model, parts[0], layout)]
    graphs = backend.graphs
    found += [scores_and_gradients(model, rows, layout) for rows in parts[1:]]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert backend.graphs == graphs > 0  # no graph for a length, none for a block
    assert list(model.state_dict()) == names
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.lm_head.weight.zero_()
        twin.model.layers[0].mlp.up_proj.weight.zero_()
        torch.testing.assert_close(
            score_rows(model, parts[0], layout), expected[0][0]
        )  # a copy is of its own
        with uncompiled(model):
            assert not has_compiled_blocks(model)
        assert has_compiled_blocks(model)


def test_where_compiling_fails_blocks_are_as_they_were(caplog):
    def refuse(_graph: Any, _inputs: Any) -> Any:
        raise RuntimeError("no compiler\nand many more lines")

    model, other = model_of(ARCHITECTURES["llama"]), model_of(ARCHITECTURES["llama"])
    expected = score_rows(model, ROWS, PACKED)
    with caplog.at_level(logging.WARNING, "distal"):
        assert not compile_blocks([model, other], PACKED, backend=refuse)
    assert len(caplog.records) == 1
    assert "blocks are not compiled" in caplog.text
    assert not has_compiled_blocks(model)
    assert torch.equal(score_rows(model, ROWS, PACKED), expected)


def test_blocks_that_come_out_otherwise_are_put_back(caplog):
    def double(graph: Any, _inputs: Any) -> Any:
        return lambda *inputs: tuple(2 * x for x in graph.forward(*inputs))

    model = model_of(ARCHITECTURES["llama"])
    with caplog.at_level(logging.WARNING, "distal"):
        assert not compile_blocks([model], PADDED, backend=double)
    assert "nats otherwise" in caplog.text
    assert not has_compiled_blocks(model)


def test_models_without_known_blocks_and_unknown_backends(caplog):
    with caplog.at_level(logging.WARNING, "distal"):
        assert not compile_blocks([torch.nn.Linear(2, 2)], PADDED)
    assert "Linear has no blocks that are known" in caplog.text
    with pytest.raises(ConfigError, match=r"'inductr' is unknown; torch.compile knows .*inductor"):
        check_backend("inductr")
