"""The small model that the engine's tests share."""

import pytest
import torch

from zhixing.families.llama import FIXED
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer import Transformer
from zhixing.tokenization.train import train_tokenizer


@pytest.fixture(scope="package")
def model():
    """A Llama of 2 layers for bytes, whose weights are large enough that its texts vary."""
    config = TransformerConfig(
        vocab_size=train_tokenizer([], "byte").tokenizer.vocab_size, width=32, layers=2, heads=4, kv_heads=2,
        head_dim=8, mlp_width=64, context=256, **FIXED,
    )  # fmt: skip
    network = Transformer(config)
    network.initialise(torch.Generator().manual_seed(0))
    for parameter in network.parameters():
        if parameter.dim() > 1:
            parameter.data *= 6
    return network.eval()
