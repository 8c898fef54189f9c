"""A tiny corpus, a tiny recipe, and a trainer made of them."""

import numpy as np
import pytest
import torch

from zhixing.core.recipe import build_recipe
from zhixing.data.batches import PackedSampler
from zhixing.data.shards import TokenStore
from zhixing.models.transformer import Transformer
from zhixing.training.loop import Trainer
from zhixing.training.networks import model_config
from zhixing.training.resolve import resolve

VOCABULARY = 40


def tiny_recipe(**train):
    values = {
        "data": {"paths": ["unused"]},
        "model": {"depth": 2, "width": 16, "heads": 2, "context": 16, **train.pop("model", {})},
        "optimizer": train.pop("optimizer", {}),
        "schedule": train.pop("schedule", {}),
        "train": {"steps": 20, "batch_size": 4, "matmul": "torch", "validate_every": 10, "save_every": 5, **train},
    }
    return resolve(build_recipe(values))


def tiny_store(tokens=2000, seed=0):
    """Tokens with a pattern that can be learned: each is the one before plus one, or now and then a random one."""
    generator = np.random.default_rng(seed)
    jumps = generator.random(tokens) < 0.1
    values = np.cumsum(np.where(jumps, generator.integers(0, VOCABULARY, tokens), 1)) % VOCABULARY
    return TokenStore.from_documents([values[i : i + 100].tolist() for i in range(0, tokens, 100)])


def tiny_trainer(recipe, store=None):
    torch.manual_seed(recipe.train.seed)
    model = Transformer(model_config(recipe.model, VOCABULARY))
    model.initialise(torch.Generator().manual_seed(recipe.train.seed))
    train = recipe.train
    sampler = PackedSampler(
        store or tiny_store(), train.block, train.batch_size, train.seed, within_documents=recipe.data.within_documents
    )
    return Trainer(model, sampler, recipe)


@pytest.fixture
def make_trainer():
    def make(**train):
        return tiny_trainer(tiny_recipe(**train))

    return make
