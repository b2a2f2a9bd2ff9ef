"""Loading models and tokenizers: what is accepted, and the message for each thing that is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from distal.errors import ModelError
from distal.scoring.loading import (
    check_finite_weights,
    check_vocabulary,
    is_adapter,
    load_model,
    load_tokenizer,
)

# PEFT asks transformers for a property under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    make_llama: Callable[..., Any],
    word_tokenizer: PreTrainedTokenizerFast,
) -> Path:
    """A saved tiny model with its tokenizer; tests copy it before they damage it."""
    path = tmp_path_factory.mktemp("models") / "tiny-llama"
    make_llama().save_pretrained(path)
    word_tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture
def adapter(folder: Path, tmp_path: Path) -> Path:
    """An adapter that moves the scores, on the saved model."""
    torch.manual_seed(3)
    model = get_peft_model(
        LlamaForCausalLM.from_pretrained(folder),
        LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False),
    )
    path = tmp_path / "adapter"
    model.save_pretrained(str(path))
    return path


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[1, 5, 9, 20]])).logits.double()


def test_loaded_model_is_the_saved_one(folder: Path, make_llama: Callable[..., Any]) -> None:
    loaded = load_model(folder)
    assert not loaded.training
    torch.testing.assert_close(logits(loaded), logits(make_llama().eval()))


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16", "float64"])
def test_dtype_by_name(folder: Path, name: str) -> None:
    assert {p.dtype for p in load_model(folder, dtype=name).parameters()} == {getattr(torch, name)}


def test_dtype_auto_keeps_what_is_stored(tmp_path: Path, make_llama: Callable[..., Any]) -> None:
    make_llama(dtype=torch.bfloat16).save_pretrained(tmp_path)
    assert load_model(tmp_path).dtype == torch.bfloat16


def test_unknown_dtype(folder: Path) -> None:
    with pytest.raises(ModelError, match="float8.*choose one of auto, float32"):
        load_model(folder, dtype="float8")


def test_adapter_folder_loads_base_and_adapter(folder: Path, adapter: Path) -> None:
    model = load_model(adapter)
    assert isinstance(model, PeftModel)
    assert not any(p.requires_grad for p in model.parameters())
    moved = logits(model)
    assert not torch.allclose(moved, logits(load_model(folder)))
    with model.disable_adapter():
        torch.testing.assert_close(logits(model), logits(load_model(folder)))


def test_adapter_beside_its_base_is_the_same_model(folder: Path, adapter: Path) -> None:
    torch.testing.assert_close(logits(load_model(folder, adapter=adapter)), logits(load_model(adapter)))


def test_trainable_adapter_trains_nothing_else(adapter: Path) -> None:
    trained = [name for name, p in load_model(adapter, trainable=True).named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)


def test_is_adapter(folder: Path, adapter: Path) -> None:
    assert is_adapter(adapter)
    assert not is_adapter(folder)


def test_adapter_on_adapter_is_refused(adapter: Path) -> None:
    with pytest.raises(ModelError, match="is itself an adapter"):
        load_model(adapter, adapter=adapter)


def test_whole_model_as_adapter_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"no adapter_config\.json"):
        load_model(folder, adapter=folder)


def test_adapter_whose_base_is_gone(adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "/nowhere/base"
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"base model \(named by adapter .*\) folder: /nowhere/base"):
        load_model(adapter)


def test_pickled_adapter_is_refused(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match="pickles"):
        load_model(adapter)


def test_missing_folder_suggests_the_nearest(folder: Path) -> None:
    with pytest.raises(ModelError, match="Did you mean .*tiny-llama"):
        load_model(folder.parent / "tiny-lama")


def test_relative_name_close_to_a_local_folder_is_not_looked_up_on_the_hub(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    with pytest.raises(ModelError, match="no such model folder: tiny-lama.*Did you mean tiny-llama"):
        load_model("tiny-lama")


def test_file_instead_of_folder(folder: Path) -> None:
    with pytest.raises(ModelError, match="is a file; give the folder"):
        load_model(folder / "config.json")


def test_hub_id_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"hub id nobody/nothing-here.*check the spelling, the network"):
        load_model("nobody/nothing-here")


def test_pickles_are_refused(copy: Path) -> None:
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"pickles \(pytorch_model\.bin\).*safetensors only"):
        load_model(copy)


def test_folder_without_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"holds no weights.*found .*config\.json"):
        load_model(copy)


def test_truncated_weights(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="damaged"):
        load_model(copy)


def test_broken_config(copy: Path) -> None:
    (copy / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot load the model from folder"):
        load_model(copy)


def test_missing_parameter_is_named(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.layers.1.self_attn.q_proj.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 .*layers\.1\.self_attn\.q_proj\.weight"):
        load_model(copy)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_weights_are_named(copy: Path, value: float) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, :3] = value
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.up_proj\.weight has 3 of 1536 entries"):
        load_model(copy)


def test_weights_that_overflow_in_float16(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors["model.norm.weight"][0] = 1e6
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    check_finite_weights(load_model(copy), "copy")
    with pytest.raises(ModelError, match=r"model\.norm\.weight has 1 of 32 .*another dtype"):
        load_model(copy, dtype="float16")


SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (
            lambda: LlamaForSequenceClassification(LlamaConfig(**SMALL, pad_token_id=0)),
            "LlamaForSequenceClassification",
        ),
        (lambda: BertForMaskedLM(BertConfig(**SMALL)), "BertForMaskedLM"),
        (
            lambda: T5ForConditionalGeneration(
                T5Config(
                    vocab_size=64,
                    d_model=16,
                    d_kv=8,
                    d_ff=16,
                    num_layers=1,
                    num_heads=2,
                )
            ),
            "t5",
        ),
    ],
    ids=["reward-model", "encoder", "encoder-decoder"],
)
def test_other_kinds_of_model_are_refused(model: Callable[[], Any], what: str, tmp_path: Path) -> None:
    model().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"not a causal language model.*{what}"):
        load_model(tmp_path)


def test_tokenizer_is_the_saved_one(folder: Path, word_tokenizer: PreTrainedTokenizerFast) -> None:
    assert load_tokenizer(folder)("w3 w63")["input_ids"] == word_tokenizer("w3 w63")["input_ids"] == [3, 63]


def test_tokenizer_of_an_adapter_is_that_of_its_base(adapter: Path) -> None:
    assert load_tokenizer(adapter)("w3 w63")["input_ids"] == [3, 63]


def test_missing_tokenizer(copy: Path) -> None:
    for path in copy.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match="holds no tokenizer.*--tokenizer"):
        load_tokenizer(copy)


def test_broken_tokenizer(copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="cannot load the tokenizer"):
        load_tokenizer(copy)


def test_vocabulary_must_fit_the_embedding(
    make_llama: Callable[..., Any], word_tokenizer: PreTrainedTokenizerFast
) -> None:
    check_vocabulary(make_llama(), word_tokenizer)  # 64 ids, 64 rows
    with pytest.raises(ModelError, match=r"ids up to 63 \('w63'\) but the model embeds only 63"):
        check_vocabulary(make_llama(vocab_size=63), word_tokenizer)


def test_vocabulary_may_be_smaller_than_a_padded_embedding(
    make_llama: Callable[..., Any], word_tokenizer: PreTrainedTokenizerFast
) -> None:
    check_vocabulary(make_llama(vocab_size=128), word_tokenizer)
