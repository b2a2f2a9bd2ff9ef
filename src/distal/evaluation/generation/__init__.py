"""Answers of a model to prompts: batched, resumable, the same for the same seed, in AlpacaEval's format."""

from __future__ import annotations

from distal.evaluation.generation.engines import Engine, ServerEngine, VllmEngine
from distal.evaluation.generation.options import Generation, SamplingOptions
from distal.evaluation.generation.outputs import ModelOutput, ModelOutputs, read_outputs, write_outputs
from distal.evaluation.generation.prompts import Prompt, PromptSet, read_prompts
from distal.evaluation.generation.running import GenerationRun, generate_outputs

__all__ = [
    "Engine",
    "Generation",
    "GenerationRun",
    "ModelOutput",
    "ModelOutputs",
    "Prompt",
    "PromptSet",
    "SamplingOptions",
    "ServerEngine",
    "VllmEngine",
    "generate_outputs",
    "read_outputs",
    "read_prompts",
    "write_outputs",
]
