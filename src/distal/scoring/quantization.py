"""Weights in 8 or 4 bits (bitsandbytes) under an adapter: a base of a half or a quarter of the memory.

- `4bit`: NF4 with quantised scales (QLoRA, arXiv 2305.14314); products are computed in a type of one's choice.
- `8bit`: LLM.int8 (arXiv 2208.07339) without its threshold for outliers. That threshold picks columns by all rows of a
  forward pass together, so the score of a row would depend on what shares its micro-batch.

The head, embeddings and norms stay as they are. Scales are no parameters, so that whoever wants to know a quantised
model's weights must ask for them here.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from distal.errors import ModelError

__all__ = [
    "QUANTIZATIONS",
    "Quantization",
    "is_quantized",
    "loading_settings",
    "move",
    "product_dtypes",
    "refuse_non_finite_files",
    "scales",
]

Quantization = Literal["none", "8bit", "4bit"]
QUANTIZATIONS: tuple[str, ...] = get_args(Quantization)

_MISSING = (
    "quantization needs bitsandbytes, which is not installed: "
    "pip install 'bitsandbytes>=0.48', or leave quantization out."
)


def loading_settings(
    quantization: str, dtype: torch.dtype | str, compute_dtype: torch.dtype | str | None = None
) -> dict[str, Any]:
    """What `from_pretrained` is told so that it quantises; nothing for `none`.

    Args:
        quantization: one of `QUANTIZATIONS`.
        dtype: of the weights that are not quantised; `auto` for what is stored.
        compute_dtype: of products with 4-bit weights; None for `dtype`, and bfloat16 where that is `auto`.

    Raises:
        ModelError: no such quantization, or bitsandbytes is missing.
    """
    if quantization not in QUANTIZATIONS:
        raise ModelError(f"unknown quantization {quantization!r}; choose one of {', '.join(QUANTIZATIONS)}.")
    if quantization == "none":
        return {}
    if find_spec("bitsandbytes") is None:
        raise ModelError(_MISSING)
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)}
    chosen = dtype if compute_dtype in (None, "auto") else compute_dtype
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if chosen == "auto" else chosen,
        )
    }


def is_quantized(model: nn.Module) -> bool:
    """Whether a model, possibly under an adapter, holds quantised weights."""
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # pyright: ignore[reportCallIssue]
    return bool(getattr(inner, "is_quantized", False))


def scales(model: nn.Module) -> dict[str, Tensor]:
    """By name, the tensors of a quantised model that are neither parameters nor buffers; none for other models."""
    if not is_quantized(model):
        return {}
    known = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    stored = model.state_dict()
    return {name: t for name, t in stored.items() if name not in known and isinstance(t, Tensor)}


def product_dtypes(model: nn.Module) -> set[torch.dtype]:
    """Types in which quantised layers compute; rounding rows to 8 bits is as coarse as bfloat16."""
    found: set[torch.dtype] = set()
    if is_quantized(model):
        for module in model.modules():
            kind = type(module).__name__
            if kind == "Linear4bit" and isinstance(getattr(module, "compute_dtype", None), torch.dtype):
                found.add(module.compute_dtype)  # pyright: ignore[reportArgumentType]
            elif kind == "Linear8bitLt":
                found.add(torch.bfloat16)
    return found


def move(model: Any, device: Any) -> Any:
    """The model on a device; a quantised one stays where it was loaded, which is the process's own device."""
    return model if is_quantized(model) else model.to(device)


def refuse_non_finite_files(folder: str) -> None:
    """Refuse a local folder whose weights hold NaN or infinity, which quantising would turn into numbers.

    Raises:
        ModelError: naming the first such weight.
    """
    from safetensors import safe_open

    for path in sorted(Path(folder).glob("model*.safetensors")):
        with safe_open(path, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - it is no mapping
                tensor = stored.get_tensor(name)
                if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                    raise ModelError(
                        f"the weights of {folder} are not finite: {name} holds NaN or infinity, which quantising would "
                        "hide. The file is damaged or comes from a diverged run: use another checkpoint."
                    )
