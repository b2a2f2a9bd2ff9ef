from __future__ import annotations

import math
import random
from collections import Counter

import pytest
import torch

from distal.demo.language_model import (
    LanguageModelConfig,
    _length_batches,
    build_language_model,
    mean_token_loss,
    train_language_model,
)
from distal.demo.sampling import sample_texts
from distal.demo.tokenizer import train_tokenizer
from distal.errors import DataError

SMALL = LanguageModelConfig(hidden_size=32, layers=1, heads=2, mlp_size=64, learning_rate=1e-2)


@pytest.fixture(scope="module")
def texts(split):
    return [snippet.text for snippet in split.train[:600]]


@pytest.fixture(scope="module")
def tokenizer(texts):
    return train_tokenizer(texts, 400)


@pytest.fixture(scope="module")
def trained(texts, tokenizer):
    return train_language_model(texts, tokenizer, config=SMALL, epochs=6, progress=None)


def unigram_loss(tokenizer, texts, held_out):
    """Mean loss of the best model without context: token frequencies in the training texts, add-one."""
    encode = lambda text: [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]  # noqa: E731
    counts = Counter(token for text in texts for token in encode(text))
    total = sum(counts.values()) + len(tokenizer)
    losses = [-math.log((counts[token] + 1) / total) for text in held_out for token in encode(text)]
    return sum(losses) / len(losses)


def test_training_beats_the_unigram_model_on_held_out_snippets(trained, tokenizer, texts, split):
    held_out = [snippet.text for snippet in split.held_out[:300]]
    baseline = unigram_loss(tokenizer, texts, held_out)
    assert mean_token_loss(trained, tokenizer, held_out) < baseline - 0.2
    untrained = build_language_model(tokenizer, SMALL)
    assert mean_token_loss(untrained, tokenizer, held_out) > baseline


def test_loss_is_that_of_transformers_one_text_at_a_time(trained, tokenizer):
    """Batches, padding without a mask and the selection of real tokens change nothing."""
    texts = ["a witty film", "dull", "it is a long and winding tale of a man and of a film that he made once"]
    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([[*tokenizer(text)["input_ids"], tokenizer.eos_token_id]])
        with torch.no_grad():
            total += trained(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert mean_token_loss(trained, tokenizer, texts) == pytest.approx(total / count, rel=1e-5)


def test_batches_hold_every_sequence_once_within_the_budget():
    rng = random.Random(1)
    sequences = [[number] * rng.randrange(2, 40) for number in range(200)]
    batches = _length_batches(sequences, 128, random.Random(0))
    assert sorted(s[0] for batch in batches for s in batch) == list(range(200))
    assert all(len(batch) * max(map(len, batch)) <= 128 or len(batch) == 1 for batch in batches)
    padded = sum(len(batch) * max(map(len, batch)) for batch in batches)
    assert padded < 1.1 * sum(map(len, sequences))
    widths = [max(map(len, batch)) for batch in batches]
    assert widths != sorted(widths)  # the order is random, not by length


def test_the_same_seed_gives_the_same_model(texts, tokenizer):
    def weights(seed):
        torch.rand(seed + 1)  # the global random state must not matter
        model = train_language_model(
            texts[:100], tokenizer, config=SMALL, max_steps=5, seed=seed, progress=None
        )
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.allclose(weights(3), weights(4))


def test_embeddings_are_tied_and_the_model_reloads(trained, tmp_path):
    from transformers import AutoModelForCausalLM

    trained.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), loaded.parameters(), strict=True))


def test_long_texts_are_cut_into_pieces_and_lose_nothing(tokenizer):
    config = LanguageModelConfig(hidden_size=32, layers=1, heads=2, mlp_size=64, max_length=8)
    model = train_language_model(["a film " * 50] * 3, tokenizer, config=config, max_steps=2, progress=None)
    assert model.config.max_position_embeddings == 8
    assert math.isfinite(mean_token_loss(model, tokenizer, ["a film " * 50]))


def test_no_texts_are_refused(tokenizer):
    with pytest.raises(DataError, match="got none"):
        train_language_model([], tokenizer, config=SMALL, progress=None)


def test_sampling_repeats_under_a_seed_and_leaves_the_global_state(trained, tokenizer):
    state = torch.random.get_rng_state()
    first = sample_texts(trained, tokenizer, 8, seed=5, max_new_tokens=20)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert sample_texts(trained, tokenizer, 8, seed=5, max_new_tokens=20) == first
    assert sample_texts(trained, tokenizer, 8, seed=6, max_new_tokens=20) != first
    assert not any("<s>" in text or "</s>" in text for text in first)


def test_samples_follow_the_model(tokenizer):
    """Trained on one text alone, the model says that text."""
    model = train_language_model(["a dull film"] * 64, tokenizer, config=SMALL, max_steps=60, progress=None)
    assert sample_texts(model, tokenizer, 10, seed=0).count("a dull film") >= 9
