"""A model's own generation_config.json: which of its fields are options here, and what is said of the others.

What the file leaves out is not the default of `transformers` (greedy, top-k 50, 20 tokens in all) but ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zhixing.core.errors import BadInput
from zhixing.generation.options import SamplingOptions

TAKEN = {
    "temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p", "typical_p": "typical_p",
    "top_h": "top_h", "epsilon_cutoff": "epsilon_cutoff", "eta_cutoff": "eta_cutoff",
    "repetition_penalty": "repetition_penalty", "encoder_repetition_penalty": "encoder_repetition_penalty",
    "presence_penalty": "presence_penalty", "frequency_penalty": "frequency_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram_size", "encoder_no_repeat_ngram_size": "encoder_no_repeat_ngram_size",
    "sequence_bias": "logit_bias", "bad_words_ids": "bad_words", "suppress_tokens": "suppress_tokens",
    "begin_suppress_tokens": "begin_suppress_tokens",
    "exponential_decay_length_penalty": "exponential_decay_length_penalty",
    "forced_bos_token_id": "forced_bos_token_id", "forced_eos_token_id": "forced_eos_token_id",
    "remove_invalid_values": "remove_invalid_values",
    "whole_characters": "whole_characters", "renormalize_logits": "renormalize_logits",
    "min_new_tokens": "min_tokens", "min_length": "min_length", "max_new_tokens": "max_tokens",
    "max_length": "max_length", "max_time": "max_seconds", "stop_strings": "stop", "eos_token_id": "end_tokens",
    "num_return_sequences": "n", "num_beams": "num_beams", "length_penalty": "length_penalty",
    "early_stopping": "early_stopping", "num_beam_groups": "num_beam_groups", "diversity_penalty": "diversity_penalty",
    "penalty_alpha": "penalty_alpha", "guidance_scale": "guidance_scale",
}  # fmt: skip
"""Fields that are options here, by their published name."""

ELSEWHERE = frozenset({
    "do_sample", "bos_token_id", "pad_token_id", "decoder_start_token_id",
    # How a text is computed, not which:
    "use_cache", "cache_implementation", "cache_config", "max_cache_len", "return_legacy_cache", "low_memory",
    "prefill_chunk_size", "compile_config", "disable_compile", "continuous_batching_config", "use_mtp",
    "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
    "assistant_early_exit", "assistant_lookbehind", "target_lookbehind", "prompt_lookup_num_tokens",
    "max_matching_ngram_size", "speculation_type",
    # What is returned beside it:
    "output_scores", "output_logits", "output_attentions", "output_hidden_states", "return_dict_in_generate",
    # About the file:
    "transformers_version", "_from_model_config", "_commit_hash", "_original_object_hash", "trust_remote_code",
})  # fmt: skip
"""Fields that are read elsewhere or that do not concern the text."""

REFUSED = {
    "token_healing": "the prompt's last token stays as it is",
    "watermarking_config": "texts are not watermarked",
    "dola_layers": "layers are not contrasted",
    "assistant_ensemble_weight": "no assistant model takes part",
    "constraints": "no words are forced into beams",
    "force_words_ids": "no words are forced into beams",
}
"""Fields that would change the text and are not followed, with what happens instead."""

OLD_DEFAULT_LENGTH = 20
"""`max_length` as old releases of `transformers` wrote it into files that never meant it."""


def options_from_config(values: Mapping[str, Any], where: str) -> tuple[SamplingOptions, list[str]]:
    """Reads a model's generation_config.json.

    Args:
        values: The parsed file.
        where: Its path, for messages.

    Returns:
        The options, and a sentence for every field that would change the text but is not followed.

    Raises:
        BadInput: A value is outside of its range.
    """
    chosen, notes = _chosen(values)
    for key, value in values.items():
        if key in TAKEN or key in ELSEWHERE or value in (None, False, [], {}):
            continue
        notes.append(f"{key} = {value!r} is not supported and has no effect: {REFUSED.get(key, 'unknown field')}")
    try:
        return SamplingOptions(**chosen), [f"{where}: {note}" for note in notes]
    except BadInput as error:
        raise BadInput(error.cause, where=where, remedy="mend or remove the field") from error


def options_named(values: Mapping[str, Any]) -> frozenset[str]:
    """Returns the names of the options that a generation_config.json says something about."""
    return frozenset(_chosen(values)[0])


def _chosen(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Returns the options that the file names, and what has to be said about their combination."""
    chosen = {ours: values[theirs] for theirs, ours in TAKEN.items() if values.get(theirs) is not None}
    notes: list[str] = []
    if chosen.get("top_k") == 0:  # published files say 0 for "all"
        del chosen["top_k"]
    if "max_length" in chosen:
        if chosen["max_length"] == OLD_DEFAULT_LENGTH or "max_tokens" in chosen:
            del chosen["max_length"]  # the latter rules, as in transformers
        else:
            chosen["max_tokens"] = chosen["max_length"]
    if "min_tokens" in chosen:
        chosen.pop("min_length", None)  # likewise
    samples = values.get("do_sample")
    if chosen.get("num_beams", 1) != 1:
        chosen["beam_sampling"] = samples is True
    elif samples is False:
        chosen["temperature"] = 0.0
    if samples is True and chosen.pop("penalty_alpha", 0):
        notes.append("penalty_alpha has no effect beside do_sample = true")
    return chosen, notes
