"""Which processors the options ask for, in which order. The order is that of `transformers`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch

from zhixing.core.errors import BadInput
from zhixing.generation.characters import whole_characters
from zhixing.generation.constraints import (
    ForcedFirst,
    ForcedLast,
    LengthDecay,
    MinimumLength,
    MinimumTokens,
    RemoveInvalid,
    Suppress,
    SuppressAtBegin,
)
from zhixing.generation.filters import filters_for
from zhixing.generation.options import SamplingOptions
from zhixing.generation.penalties import CountPenalty, NoRepeatNGrams, PromptPenalty, RepetitionPenalty, SequenceBias
from zhixing.generation.sampling import LogitsProcessor
from zhixing.tokenization.tokenizer import Tokenizer

NEVER = float("-inf")


def processors_for(
    options: SamplingOptions,
    *,
    ends: Collection[int] = (),
    tokenizer: Tokenizer | None = None,
    vocab_size: int | None = None,
    device: torch.device | str = "cpu",
) -> list[LogitsProcessor]:
    """Returns the processors that the options ask for, in the order of application.

    Args:
        options: What is asked for.
        ends: The end tokens in force.
        tokenizer: Spells texts in `logit_bias` and `bad_words`.
        vocab_size: The model's, to check ids against.
        device: Where the logits are.

    Raises:
        BadInput: A text cannot be spelled, or an id is outside of the vocabulary.
    """
    chain: list[LogitsProcessor] = []
    ends = tuple(sorted(ends))
    _check_ids(options, vocab_size)
    if options.logit_bias:
        biases: dict[tuple[int, ...], float] = {}
        for phrase, bias in options.logit_bias:
            sequence = _spelled("logit_bias", phrase, tokenizer, vocab_size)
            biases[sequence] = biases.get(sequence, 0.0) + bias
        chain.append(SequenceBias(biases, device))
    if options.encoder_repetition_penalty != 1:
        chain.append(PromptPenalty(options.encoder_repetition_penalty))
    if options.repetition_penalty != 1:
        chain.append(RepetitionPenalty(options.repetition_penalty))
    if options.presence_penalty or options.frequency_penalty:
        chain.append(CountPenalty(options.presence_penalty, options.frequency_penalty))
    if options.no_repeat_ngram_size:
        chain.append(NoRepeatNGrams(options.no_repeat_ngram_size))
    if options.encoder_no_repeat_ngram_size:
        chain.append(NoRepeatNGrams(options.encoder_no_repeat_ngram_size, of_prompt=True))
    if banned := _bad_words(options.bad_words, ends, tokenizer, vocab_size):
        chain.append(SequenceBias(dict.fromkeys(banned, NEVER), device))
    if options.min_length and ends:
        chain.append(MinimumLength(options.min_length, ends))
    if options.min_tokens and ends:
        chain.append(MinimumTokens(options.min_tokens, ends))
    if options.forced_bos_token_id is not None:
        chain.append(ForcedFirst(options.forced_bos_token_id))
    if options.forced_eos_token_id:
        chain.append(ForcedLast(options.forced_eos_token_id))  # type: ignore[arg-type]
    if options.remove_invalid_values:
        chain.append(RemoveInvalid())
    if options.exponential_decay_length_penalty is not None and ends:
        chain.append(LengthDecay(*options.exponential_decay_length_penalty, ends))
    if options.suppress_tokens:
        chain.append(Suppress(options.suppress_tokens))
    if options.begin_suppress_tokens:
        # Behind a forced first token, the first free choice is the second.
        chain.append(SuppressAtBegin(options.begin_suppress_tokens, options.forced_bos_token_id is not None))
    drawn = not options.greedy and not options.contrastive and (options.beam_sampling or not options.beams)
    if options.whole_characters and drawn and tokenizer is not None and (whole := whole_characters(tokenizer)):
        chain.append(whole)
    return chain


def _spelled(name: str, phrase: Any, tokenizer: Tokenizer | None, vocab_size: int | None) -> tuple[int, ...]:
    """Returns the token ids of a phrase: a text or ids."""
    if not isinstance(phrase, str):
        _within(name, phrase, vocab_size)
        return tuple(phrase)
    if tokenizer is None:
        raise BadInput(f"{name}: without a tokenizer {phrase!r} cannot be spelled", remedy="give token ids")
    tokens = tokenizer.encode(phrase)
    if not tokens or tokenizer.unknown_id in tokens:
        raise BadInput(f"{name}: the tokenizer has no tokens for {phrase!r}")
    return tuple(tokens)


def _bad_words(
    words: Iterable[Any], ends: Collection[int], tokenizer: Tokenizer | None, vocab_size: int | None
) -> list[tuple[int, ...]]:
    """Returns the sequences that the banned words are, a text alone and behind a space; end tokens are let through."""
    banned = []
    for word in words:
        banned.append(_spelled("bad_words", word, tokenizer, vocab_size))
        if isinstance(word, str) and tokenizer is not None and not word[0].isspace():
            behind = tokenizer.encode(" " + word)
            if tokenizer.unknown_id not in behind:  # a tokenizer without spaces
                banned.append(tuple(behind))
    return [sequence for sequence in dict.fromkeys(banned) if len(sequence) > 1 or sequence[0] not in ends]


def _check_ids(options: SamplingOptions, vocab_size: int | None) -> None:
    for name in ("suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id"):
        _within(name, getattr(options, name) or (), vocab_size)
    if options.forced_bos_token_id is not None:
        _within("forced_bos_token_id", (options.forced_bos_token_id,), vocab_size)


def _within(name: str, tokens: Iterable[int], vocab_size: int | None) -> None:
    for token in tokens:
        if vocab_size is not None and token >= vocab_size:
            raise BadInput(f"{name}: token id {token} is outside of the vocabulary of {vocab_size}")


def chain_of(options: SamplingOptions, tokenizer: Tokenizer | None) -> str:
    """Names the steps from logits to a token that the options ask for, in their order."""
    ends = options.end_tokens
    if ends is None and tokenizer is not None and tokenizer.end_of_text_id is not None:
        ends = (tokenizer.end_of_text_id,)
    steps = [type(step).__name__ for step in processors_for(options, ends=ends or (), tokenizer=tokenizer)]
    if options.guidance_scale != 1:
        steps.insert(0, "guidance")
    if options.contrastive:
        return ", ".join([*steps, "contrastive search"])
    if options.beams:
        kind = "beam search"
        drawn = [type(step).__name__ for step in filters_for(options)] if options.beam_sampling else []
        return ", ".join([*steps, *drawn, kind])
    drawn = [type(step).__name__ for step in filters_for(options)]
    return ", ".join([*steps, *drawn, "greedy" if options.greedy else "draw"])
