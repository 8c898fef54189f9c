"""Lets a finished model write: beginnings of held-out documents, continued."""

from __future__ import annotations

from zhixing.checkpoints.folder import ModelFolder
from zhixing.data.shards import TokenStore
from zhixing.generation.generate import Generator
from zhixing.generation.options import SamplingOptions
from zhixing.tokenization.tokenizer import Tokenizer

SAMPLES = 3
PROMPT_CHARACTERS = 48
PROMPT_TOKENS = 48
SAMPLE_TOKENS = 160


def write_samples(opened: ModelFolder, held_out: TokenStore, seed: int) -> list[dict[str, str]]:
    """Returns prompts and what the model writes after them, for documents spread evenly over the held-out part."""
    tokenizer = opened.tokenizer
    assert tokenizer is not None
    prompts = sample_prompts(tokenizer, held_out, opened.model.config.context)
    options = SamplingOptions(
        temperature=0.8, top_p=0.95, max_tokens=SAMPLE_TOKENS, seed=seed, sliding=True, whole_characters=True
    )
    texts = Generator(opened.model, tokenizer).generate(prompts, options)
    return [
        {"prompt": tokenizer.decode(prompt), "text": answer.text} for prompt, answer in zip(prompts, texts, strict=True)
    ]


def sample_prompts(tokenizer: Tokenizer, held_out: TokenStore, context: int) -> list[list[int]]:
    """Returns the beginnings of some held-out documents, at most half of each, so that there is something to write."""
    prompts = []
    for number in range(SAMPLES):
        if len(held_out.documents) <= SAMPLES:  # one long text: begin at three places of it
            start, end = number * len(held_out) // SAMPLES, len(held_out)
        else:
            index = number * (len(held_out.documents) - 1) // SAMPLES
            start, end = int(held_out.documents[index]), int(held_out.documents[index + 1])
        tokens = held_out.read(start, min(PROMPT_TOKENS, max(1, (end - start) // 2))).tolist()
        if prompt := _beginning(tokenizer.decode(tokens, skip_special=True)):
            prompts.append(tokenizer.encode(prompt)[: context // 2])
    return prompts


def _beginning(text: str) -> str:
    """Cuts a text to a prompt that ends at a word or line, without the halves of characters at its edges."""
    text = text.strip("\ufffd").lstrip()
    if len(text) <= PROMPT_CHARACTERS:
        return text.rstrip()
    cut = text[:PROMPT_CHARACTERS]
    border = max(cut.rfind(" "), cut.rfind("\n"))
    return (cut[:border] if border > PROMPT_CHARACTERS // 2 else cut).rstrip()
