"""A tiny random model of `transformers`, and the same weights opened here through a folder."""

import functools
import tempfile
from pathlib import Path

import torch
import transformers

from zhixing.checkpoints.folder import load_folder

VOCAB = 40


@functools.cache
def models(vocab: int = VOCAB, spread: float = 0.35, seed: int = 3):
    """Returns their model and ours: a Llama with grouped heads."""
    with tempfile.TemporaryDirectory() as folder:
        theirs = save(folder, vocab, spread, seed)
        return theirs, load_folder(Path(folder)).model


def save(folder, vocab: int = VOCAB, spread: float = 0.35, seed: int = 3):
    """Writes the folder of such a model, as `transformers` does; returns their model."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=vocab, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=64, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=spread)
    theirs.save_pretrained(folder)
    return theirs


def their_tokens(prompt, count, **options):
    """Returns what `transformers` writes behind a prompt, and all that it tells about it."""
    options = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None, "max_new_tokens": count, **options}
    tokens = torch.tensor([prompt])
    options["attention_mask"] = torch.ones_like(tokens)  # else a pad token in the prompt would be left out
    result = models()[0].generate(tokens, return_dict_in_generate=True, output_scores=True, **options)
    return result.sequences[:, len(prompt) :], result
