"""Loading causal language models, adapters and tokenizers, with messages that say how to go on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from distal.errors import ModelError
from distal.scoring.partitioned import whole, whole_shape
from distal.scoring.quantization import loading_settings, refuse_non_finite_files, scales

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from distal.scoring.model_files import check_files, check_readable, locate, translated

__all__ = [
    "check_finite_weights",
    "check_vocabulary",
    "is_adapter",
    "load_model",
    "load_reward_model",
    "load_tokenizer",
]

_DTYPES = {
    "auto": "auto",
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
_OTHER_HEADS = ("MaskedLM", "Classification", "QuestionAnswering", "PreTraining", "MultipleChoice", "Reward")


def load_model(  # noqa: PLR0913 - how a model is loaded, all with defaults
    name_or_path: str | Path,
    *,
    dtype: str = "auto",
    adapter: str | Path | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
    trainable: bool = False,
    quantization: str = "none",
    quantization_dtype: str | None = None,
) -> Any:
    """Loads a causal language model, or a PEFT adapter with its base model.

    Only safetensors files are read, never pickles. The weights are checked for NaN and infinity.

    Args:
        name_or_path: local folder or hub id of a model, or of an adapter (the base model is then the one that
            the adapter names).
        dtype: `auto` (as stored), `float32`, `bfloat16`, `float16` or `float64`.
        adapter: local folder or hub id of an adapter to put on top.
        attn_implementation: name that transformers knows, None for its choice.
        trust_remote_code: run code that comes with the model.
        revision: hub revision of the model (not of the adapter beside it).
        trainable: whether the adapter, if there is one, is loaded for training.
        quantization: `none`, `8bit` or `4bit` (bitsandbytes) of the linear layers, on the process's own device.
        quantization_dtype: type of products with 4-bit weights; None for `dtype` (bfloat16 where that is `auto`).

    Returns:
        A `transformers` model in evaluation mode, or a `peft.PeftModel` where an adapter is in play.

    Raises:
        ModelError: the model is missing, not a causal language model, not stored as safetensors, incomplete,
            or holds NaN or infinity.
    """
    for chosen in (dtype, quantization_dtype):
        if chosen is not None and chosen not in _DTYPES:
            raise ModelError(f"unknown dtype {chosen!r}; choose one of {', '.join(_DTYPES)}.")
    source = locate(name_or_path, "model")
    if is_adapter(source, revision=revision):
        if adapter is not None:
            raise ModelError(
                f"{source} is itself an adapter: name its base model, or leave out the adapter {adapter}."
            )
        source, adapter, revision = _base_of(source, revision), source, None
    elif adapter is not None:
        adapter = locate(adapter, "adapter")
        if not is_adapter(adapter):
            raise ModelError(f"{adapter} holds no adapter_config.json, so it is no PEFT adapter.")
    settings: dict[str, Any] = {"trust_remote_code": trust_remote_code, "revision": revision}
    products = None if quantization_dtype is None else _DTYPES[quantization_dtype]
    settings |= loading_settings(quantization, _DTYPES[dtype], products)
    if attn_implementation is not None:
        settings["attn_implementation"] = attn_implementation
    model: Any = _load_base(source, _DTYPES[dtype], settings)
    if adapter is not None:
        model = _with_adapter(model, str(adapter), trainable)
    check_finite_weights(model, str(name_or_path))
    return model.eval()


def load_reward_model(
    name_or_path: str | Path, *, dtype: str = "auto", trust_remote_code: bool = False
) -> PreTrainedModel:
    """Loads a sequence-classification model with one output, which is the reward of a text.

    Only safetensors files are read. The weights are checked for NaN and infinity.

    Raises:
        ModelError: the model is missing, has another head or several outputs, or is not stored as safetensors.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    if dtype not in _DTYPES:
        raise ModelError(f"unknown dtype {dtype!r}; choose one of {', '.join(_DTYPES)}.")
    source = locate(name_or_path, "reward model")
    check_files(
        source, ("model*.safetensors*",), ("pytorch_model*.bin*", "*.pt", "*.pth"), "save_pretrained(folder)"
    )
    with translated("reward model", source):
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        # With output_loading_info it returns a pair, which its annotation does not say.
        loaded: Any = AutoModelForSequenceClassification.from_pretrained(
            source,
            config=config,
            dtype=_DTYPES[dtype],
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
        )
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing or config.num_labels != 1:
        what = f"its files lack {missing[0]}" if missing else f"it has {config.num_labels} outputs"
        raise ModelError(
            f"{source} is no reward model: {what}. It should be a sequence-classification model with one output "
            "(num_labels = 1), saved with its head."
        )
    check_finite_weights(model, str(name_or_path))
    return model.eval()


def load_tokenizer(
    name_or_path: str | Path, *, trust_remote_code: bool = False, revision: str | None = None
) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a model; for an adapter without one, that of its base model.

    Raises:
        ModelError: there is no tokenizer, or it cannot be read.
    """
    from transformers import AutoTokenizer

    source = locate(name_or_path, "model or tokenizer")
    local = Path(source)
    if (
        local.is_dir()
        and not any(local.glob("tokenizer*"))
        and not any(local.glob("vocab*"))
        and not any(local.glob("*.model"))
    ):
        if is_adapter(source):
            return load_tokenizer(_base_of(source, None), trust_remote_code=trust_remote_code)
        raise ModelError(
            f"{source} holds no tokenizer (no tokenizer.json, tokenizer.model or vocab file). Copy the "
            "tokenizer files into it, or name the folder that has them (--tokenizer)."
        )
    with translated("tokenizer", source):
        return AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code, revision=revision)


def check_vocabulary(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses a tokenizer whose ids the model has no embedding for.

    Raises:
        ModelError: the highest token id is not below the number of embedding rows.
    """
    rows = whole_shape(model.get_input_embeddings().weight)[0]  # type: ignore[operator, union-attr]
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= rows:
        token = tokenizer.convert_ids_to_tokens(highest)
        raise ModelError(
            f"the tokenizer has token ids up to {highest} ({token!r}) but the model embeds only {rows} (ids "
            f"0 to {rows - 1}): they do not belong together. Use the model's own tokenizer, or resize the "
            f"model's embeddings to {highest + 1} and train them first."
        )


def check_finite_weights(model: nn.Module, name: str) -> None:
    """Refuses a model with NaN or infinity in its weights.

    Raises:
        ModelError: naming the first such parameter and how many of its entries are affected.
    """
    for parameter_name, parameter in (*model.named_parameters(), *scales(model).items()):
        with whole(parameter) as weight:
            bad = int((~torch.isfinite(weight.detach())).sum())
        if bad:
            raise ModelError(
                f"the weights of {name} are not finite: parameter {parameter_name} has {bad} of "
                f"{whole_shape(parameter).numel()} entries that are NaN or infinite. The file is damaged, comes from a "
                "diverged run, or overflows in this dtype (float16 ends at 65504): load it in another dtype "
                "or use another checkpoint."
            )


def is_adapter(name_or_path: str | Path, *, revision: str | None = None) -> bool:
    """Whether a folder or hub id holds a PEFT adapter rather than a whole model."""
    local = Path(name_or_path)
    if local.is_dir():
        check_readable(local)
        return (local / "adapter_config.json").is_file() and not any(local.glob("model*.safetensors*"))
    from transformers.utils.peft_utils import find_adapter_config_file

    try:
        return find_adapter_config_file(str(name_or_path), revision=revision or "main") is not None
    except (OSError, ValueError):  # no such repository, or no network: loading it says so better
        return False


def _base_of(adapter: str, revision: str | None) -> str:
    """The base model that an adapter names."""
    from peft import PeftConfig

    with translated("adapter", adapter):
        base = PeftConfig.from_pretrained(adapter, revision=revision).base_model_name_or_path
    if not base:
        raise ModelError(
            f"adapter {adapter} does not name its base model; give the base as the model and this as adapter."
        )
    return locate(base, f"base model (named by adapter {adapter})")


def _load_base(source: str, dtype: torch.dtype | str, settings: dict[str, Any]) -> PreTrainedModel:
    """A whole model, after the checks that give better messages than the loader's."""
    from transformers import AutoConfig, AutoModelForCausalLM

    check_files(
        source, ("model*.safetensors*",), ("pytorch_model*.bin*", "*.pt", "*.pth"), "save_pretrained(folder)"
    )
    with translated("model", source):
        config = AutoConfig.from_pretrained(
            source, trust_remote_code=settings["trust_remote_code"], revision=settings["revision"]
        )
    _check_causal(source, config)
    if "quantization_config" in settings:
        if getattr(config, "quantization_config", None) is not None:
            raise ModelError(f"{source} is stored quantised already; leave quantization out.")
        refuse_non_finite_files(source)
    with translated("model", source):
        # With output_loading_info it returns a pair, which its annotation does not say.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, use_safetensors=True, output_loading_info=True, **settings
        )
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"the weight files of {source} lack {len(missing)} of the model's parameters "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}), which would be left random. "
            "It may have been saved with another head (a reward model, a bare encoder), or a file is "
            "incomplete."
        )
    return model


def _with_adapter(model: PreTrainedModel, adapter: str, trainable: bool) -> PeftModel:
    """The model with a PEFT adapter on top."""
    from peft import PeftModel

    check_files(adapter, ("adapter_model.safetensors",), ("adapter_model.bin",), "save_pretrained(folder)")
    with translated("adapter", adapter):
        return PeftModel.from_pretrained(model, adapter, is_trainable=trainable, use_safetensors=True)


def _check_causal(source: str, config: PreTrainedConfig) -> None:
    """Refuses encoders, encoder-decoders, and models saved with another head."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    kind = getattr(config, "model_type", "unknown")
    heads = [head for head in (config.architectures or ()) if any(other in head for other in _OTHER_HEADS)]
    remote = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or remote
    if heads or not known or getattr(config, "is_encoder_decoder", False):
        what = f"was saved as {heads[0]}" if heads else f"is of type {kind}"
        raise ModelError(
            f"{source} is not a causal language model: it {what}. Distal needs one that AutoModelForCausalLM "
            "can load (Llama, Qwen, Mistral, GPT-2, ...)."
        )
