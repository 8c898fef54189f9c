"""What a user can say about how a text is written: one frozen record, checked when it is made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zhixing.core.errors import BadInput, unknown_name

DEFAULT_MAX_TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How the next tokens are chosen, and when to stop.

    Attributes:
        temperature: Divides the logits; below 1 is bolder, above 1 more varied; 0 is greedy: always the likeliest.
        top_k: Choose among the k likeliest tokens only; None for all.
        top_p: Choose among the likeliest tokens that together hold this share (Holtzman et al. 2020); 1 for all.
        repetition_penalty: Above 1, makes every token that already occurred less likely (Keskar et al. 2019).
        seed: The same seed, prompt and sample number give the same text, whatever else is in the batch. None draws one;
            the result names it.
        max_tokens: Longest answer, in tokens.
        stop: Texts that end the answer where they first appear; they are not part of it.
        n: Answers per prompt.
        end_tokens: Token ids that end the answer; None means the model's own, () means none.
        logprobs: Also return the log-probabilities of the chosen tokens, and of this many of the likeliest; None: none.
        sliding: When the model's context is full, forget its older half and go on, instead of stopping.

    Raises:
        BadInput: A value is outside of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_tokens: int = DEFAULT_MAX_TOKENS
    stop: tuple[str, ...] = ()
    n: int = 1
    end_tokens: tuple[int, ...] | None = None
    logprobs: int | None = None
    sliding: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", _texts(self.stop))
        if self.end_tokens is not None:
            object.__setattr__(self, "end_tokens", _ids(self.end_tokens))
        _number("temperature", self.temperature, 0.0, 100.0, "0 (greedy) to 100")
        _number("top_p", self.top_p, 0.0, 1.0, "above 0, up to 1", above=True)
        _number("repetition_penalty", self.repetition_penalty, 0.0, 100.0, "above 0, up to 100 (1 is none)", above=True)
        _whole("max_tokens", self.max_tokens, 1, "at least 1")
        _whole("n", self.n, 1, "at least 1")
        if self.top_k is not None:
            _whole("top_k", self.top_k, 1, "at least 1, or none for all tokens")
        if self.logprobs is not None:
            _whole("logprobs", self.logprobs, 0, "0 or more, or none")
        if self.seed is not None:
            _whole("seed", self.seed, None, "any whole number, or none")
        if not isinstance(self.sliding, bool):
            raise _refused("sliding", self.sliding, "true or false")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0

    def replace(self, **changes: Any) -> SamplingOptions:
        """Returns a copy with some options changed.

        Raises:
            BadInput: There is no such option, or its value is wrong.
        """
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise unknown_name("option", name, known)
        return dataclasses.replace(self, **changes)


def _refused(name: str, value: object, allowed: str) -> BadInput:
    return BadInput(f"{name} must be {allowed}, got {value!r}")


def _number(name: str, value: object, low: float, high: float, allowed: str, *, above: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _refused(name, value, f"a number, {allowed}")
    if not low <= value <= high or (above and value == low):
        raise _refused(name, value, allowed)


def _whole(name: str, value: object, low: int | None, allowed: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or (low is not None and value < low):
        raise _refused(name, value, f"a whole number, {allowed}" if low is not None else allowed)


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, tuple | list) or not all(isinstance(text, str) and text for text in value):
        raise _refused("stop", value, "a text or a list of texts, none of them empty")
    return tuple(value)


def _ids(value: object) -> tuple[int, ...]:
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value,)
    if not isinstance(value, tuple | list):
        raise _refused("end_tokens", value, "token ids, or none")
    for token in value:
        if isinstance(token, bool) or not isinstance(token, int) or token < 0:
            raise _refused("end_tokens", token, "token ids, each 0 or more")
    return tuple(value)


TAKEN = {
    "temperature": "temperature",
    "top_p": "top_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}
"""Fields of a generation_config.json that are options here, by their published name."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,), "num_beam_groups": (1,), "num_return_sequences": (1,), "length_penalty": (1.0,),
    "typical_p": (1.0,), "min_p": (0.0,), "no_repeat_ngram_size": (0,), "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0,), "diversity_penalty": (0.0,), "epsilon_cutoff": (0.0,), "eta_cutoff": (0.0,),
    "guidance_scale": (1.0,), "penalty_alpha": (0.0,), "min_length": (0,), "min_new_tokens": (0,), "max_length": (20,),
    "use_cache": (True, False), "early_stopping": (False,), "remove_invalid_values": (True, False),
}  # fmt: skip
"""Values of further fields with which they have no effect."""

UNREAD = frozenset({
    "transformers_version", "bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id", "do_sample",
    "top_k", "_from_model_config", "output_scores", "output_logits", "output_attentions", "output_hidden_states",
    "return_dict_in_generate", "cache_implementation", "return_legacy_cache", "is_assistant",
    "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
    "assistant_lookbehind", "target_lookbehind", "disable_compile", "renormalize_logits", "trust_remote_code",
})  # fmt: skip
"""Fields that are read elsewhere or that do not concern the text."""


def options_from_config(values: Mapping[str, Any], where: str) -> tuple[SamplingOptions, list[str]]:
    """Reads a model's generation_config.json.

    Args:
        values: The parsed file.
        where: Its path, for messages.

    Returns:
        The options, and a sentence for every field that would change the text but is not supported.

    Raises:
        BadInput: A value is outside of its range.
    """
    chosen: dict[str, Any] = {ours: values[theirs] for theirs, ours in TAKEN.items() if values.get(theirs) is not None}
    if values.get("top_k"):  # published files say 0 for "all"
        chosen["top_k"] = values["top_k"]
    if values.get("do_sample") is False:
        chosen["temperature"] = 0.0
    if values.get("eos_token_id") is not None:
        chosen["end_tokens"] = values["eos_token_id"]
    notes = [
        f"{where}: {key} = {value!r} is not supported and has no effect"
        for key, value in values.items()
        if key not in TAKEN
        and key not in UNREAD
        and value not in (None, False, [], {})
        and value not in NEUTRAL.get(key, ())
    ]
    try:
        return SamplingOptions(**chosen), notes
    except BadInput as error:
        raise BadInput(error.cause, where=where, remedy="mend or remove the field") from error
