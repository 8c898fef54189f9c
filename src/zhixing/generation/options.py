"""What a user can say about how a text is written: one frozen record, checked when it is made.

Names are those of `transformers` and of OpenAI's protocol where these have the option; `docs/generation.md` has the
formulas. How a published generation_config.json becomes such a record is in `published`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from zhixing.core.errors import BadInput, unknown_name
from zhixing.generation import checks

DEFAULT_MAX_TOKENS = 256

SHARPENING = (
    "temperature", "top_k", "top_p", "min_p", "typical_p", "top_h", "top_n_sigma", "epsilon_cutoff", "eta_cutoff",
)  # fmt: skip
"""Options that shape a random choice; where nothing is drawn they have no part."""

BEAM_ONLY = ("length_penalty", "early_stopping", "num_beam_groups", "diversity_penalty", "beam_sampling")
"""Options of beam search."""


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How the next tokens are chosen, and when to stop.

    Attributes:
        temperature: Divides the logits; below 1 is bolder, above 1 more varied; 0 is greedy: always the likeliest.
        top_k: Choose among the k likeliest tokens only; None for all.
        top_p: Choose among the likeliest tokens that together hold this share (Holtzman et al. 2020); 1 for all.
        min_p: Choose among tokens with at least this share of the likeliest one's probability; 0 for all.
        typical_p: Choose among the tokens nearest to the expected surprise that together hold this share; 1 for all.
        top_h: Choose among the likeliest tokens that together hold this share of the entropy; None for all.
        top_n_sigma: Choose among tokens within so many standard deviations of the highest logit; None for all.
        epsilon_cutoff: Choose among tokens with at least this probability; 0 for all.
        eta_cutoff: Likewise, with a bound that falls where the entropy is high; 0 for all.
        repetition_penalty: Above 1, makes every token that already occurred less likely (Keskar et al. 2019).
        encoder_repetition_penalty: Above 1, makes the tokens of the prompt more likely.
        presence_penalty: Taken from the logit of every token that the answer already has (OpenAI's definition).
        frequency_penalty: Likewise, once for each time that the answer has it.
        no_repeat_ngram_size: No sequence of so many tokens comes twice, prompt included; 0 for no bound.
        encoder_no_repeat_ngram_size: No sequence of so many tokens of the prompt comes again; 0 for no bound.
        logit_bias: Added to logits: {token id, text or tuple of ids: bias}. Of several tokens, it is added to the last
            one when the others have just been written.
        bad_words: Texts or lists of token ids that are not written. A text is meant as the tokenizer spells it, alone
            and behind a space. An end token by itself is let through.
        suppress_tokens: Token ids that are never chosen.
        begin_suppress_tokens: Token ids that are not chosen first.
        exponential_decay_length_penalty: (tokens, factor): from so many tokens on, ends become ever likelier.
        forced_bos_token_id: The token behind a prompt of one token, as translation models need it.
        forced_eos_token_id: The token, or one of the tokens, that an answer ends with when its length is reached.
        remove_invalid_values: Predictions that are no numbers count as 0, instead of being refused.
        whole_characters: Draw no token behind which the text could not become valid UTF-8, as those of small models do.
        renormalize_logits: Beam search sums log-probabilities that are normalised after all processors.
        min_tokens: No end token before so many tokens; stop texts end the answer all the same.
        min_length: No end token before prompt and answer together have so many tokens.
        max_tokens: Longest answer, in tokens.
        max_length: Longest prompt and answer together, in tokens; None for no bound but the model's.
        max_seconds: Longest time from the call to the last token; the token under way is still written.
        stop: Texts that end the answer where they first appear; they are not part of it.
        end_tokens: Token ids that end the answer; None means the model's own, () means none.
        seed: The same seed, prompt and sample number give the same text, whatever else is in the batch. None draws one;
            the result names it.
        n: Answers per prompt; of beam search, the n best.
        best_of: Draw so many answers per prompt and return the n best: by mean log-probability, or by a scorer.
        num_beams: Beam search with so many beams; 1 for none. Nothing is drawn, whatever the temperature.
        beam_sampling: Draw the continuations of the beams, by temperature and filters, instead of taking the best.
        length_penalty: A finished beam's score is its log-probability divided by its length to this power.
        early_stopping: End a search with `num_beams` finished beams (True), when an estimate says that none will
            become better (False), or when none can ("never").
        num_beam_groups: Diverse beam search (Vijayakumar et al. 2016) with so many groups of beams.
        diversity_penalty: Taken from the score of a token for each earlier group that has just chosen it.
        penalty_alpha: Contrastive search (Su et al. 2022) among `top_k` tokens: the weight of being different; 0: none.
        guidance_scale: Classifier-free guidance (Sanchez et al. 2023); 1 for none.
        negative_prompt: What guidance leads away from, a text or token ids; None means the prompt's last token.
        logprobs: Also return the log-probabilities of the chosen tokens, and of this many of the likeliest; None: none.
        sliding: When the model's context is full, forget its older half and go on, instead of stopping.

    Raises:
        BadInput: A value is outside of its range, or two contradict each other.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    top_h: float | None = None
    top_n_sigma: float | None = None
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    repetition_penalty: float = 1.0
    encoder_repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    logit_bias: Any = ()
    bad_words: Any = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    exponential_decay_length_penalty: tuple[int, float] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: tuple[int, ...] | int | None = None
    remove_invalid_values: bool = False
    whole_characters: bool = False
    renormalize_logits: bool = False
    min_tokens: int = 0
    min_length: int = 0
    max_tokens: int = DEFAULT_MAX_TOKENS
    max_length: int | None = None
    max_seconds: float | None = None
    stop: tuple[str, ...] = ()
    end_tokens: tuple[int, ...] | None = None
    seed: int | None = None
    n: int = 1
    best_of: int | None = None
    num_beams: int = 1
    beam_sampling: bool = False
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    penalty_alpha: float = 0.0
    guidance_scale: float = 1.0
    negative_prompt: str | tuple[int, ...] | None = None
    logprobs: int | None = None
    sliding: bool = False

    def __post_init__(self) -> None:
        self._store()
        self._check_choice()
        self._check_penalties()
        self._check_limits()
        self._check_strategies()
        self._check_together()

    def _store(self) -> None:
        """Brings lists and mappings into their stored forms, checking them."""
        stored: dict[str, Any] = {
            "stop": checks.texts("stop", self.stop),
            "logit_bias": checks.biases("logit_bias", self.logit_bias),
            "bad_words": checks.phrases("bad_words", self.bad_words),
        }
        for name in ("suppress_tokens", "begin_suppress_tokens", "end_tokens", "forced_eos_token_id"):
            if getattr(self, name) is not None:
                stored[name] = checks.token_ids(name, getattr(self, name))
        if self.negative_prompt is not None and not isinstance(self.negative_prompt, str):
            stored["negative_prompt"] = checks.token_ids("negative_prompt", self.negative_prompt)
        decay = self.exponential_decay_length_penalty
        if decay is not None:
            if not isinstance(decay, tuple | list) or len(decay) != 2:
                raise checks.refused("exponential_decay_length_penalty", decay, "a pair: tokens and a factor")
            checks.whole("exponential_decay_length_penalty's start", decay[0], 0, "0 or more tokens")
            checks.number("exponential_decay_length_penalty's factor", decay[1], 0.0, 100.0, "0 to 100")
            stored["exponential_decay_length_penalty"] = (decay[0], float(decay[1]))
        for name, value in stored.items():
            object.__setattr__(self, name, value)

    def _check_choice(self) -> None:
        checks.number("temperature", self.temperature, 0.0, 100.0, "0 (greedy) to 100")
        if self.top_k is not None:
            checks.whole("top_k", self.top_k, 1, "at least 1, or none for all tokens")
        for name in ("top_p", "typical_p"):
            checks.number(name, getattr(self, name), 0.0, 1.0, "above 0, up to 1", above=True)
        checks.number("min_p", self.min_p, 0.0, 1.0, "0 to 1")
        if self.top_h is not None:
            checks.number("top_h", self.top_h, 0.0, 1.0, "above 0, up to 1, or none", above=True)
        if self.top_n_sigma is not None:
            checks.number("top_n_sigma", self.top_n_sigma, 0.0, 1000.0, "above 0, or none", above=True)
        for name in ("epsilon_cutoff", "eta_cutoff"):
            value = getattr(self, name)
            checks.number(name, value, 0.0, 1.0, "0 or more, and below 1")
            if value == 1:
                raise checks.refused(name, value, "0 or more, and below 1")

    def _check_penalties(self) -> None:
        for name in ("repetition_penalty", "encoder_repetition_penalty"):
            checks.number(name, getattr(self, name), 0.0, 100.0, "above 0, up to 100 (1 is none)", above=True)
        for name in ("presence_penalty", "frequency_penalty"):
            checks.number(name, getattr(self, name), -100.0, 100.0, "-100 to 100 (0 is none)")
        for name in ("no_repeat_ngram_size", "encoder_no_repeat_ngram_size"):
            checks.whole(name, getattr(self, name), 0, "0 or more (0 is no bound)")
        if self.forced_bos_token_id is not None:
            checks.whole("forced_bos_token_id", self.forced_bos_token_id, 0, "a token id, 0 or more, or none")
        checks.switch("remove_invalid_values", self.remove_invalid_values)
        checks.switch("whole_characters", self.whole_characters)
        checks.switch("renormalize_logits", self.renormalize_logits)

    def _check_limits(self) -> None:
        checks.whole("max_tokens", self.max_tokens, 1, "at least 1")
        checks.whole("n", self.n, 1, "at least 1")
        for name in ("min_tokens", "min_length"):
            checks.whole(name, getattr(self, name), 0, "0 or more")
        if self.max_length is not None:
            checks.whole("max_length", self.max_length, 1, "at least 1, or none")
        if self.max_seconds is not None:
            checks.number("max_seconds", self.max_seconds, 0.0, 1e9, "above 0, or none", above=True)
        if self.logprobs is not None:
            checks.whole("logprobs", self.logprobs, 0, "0 or more, or none")
        if self.seed is not None:
            checks.whole("seed", self.seed, None, "any whole number, or none")
        checks.switch("sliding", self.sliding)

    def _check_strategies(self) -> None:
        if self.best_of is not None:
            checks.whole("best_of", self.best_of, 1, "at least 1, or none")
        for name in ("num_beams", "num_beam_groups"):
            checks.whole(name, getattr(self, name), 1, "at least 1")
        checks.switch("beam_sampling", self.beam_sampling)
        checks.number("length_penalty", self.length_penalty, -100.0, 100.0, "-100 to 100")
        if self.early_stopping not in (True, False, "never"):
            raise checks.refused("early_stopping", self.early_stopping, "true, false or 'never'")
        checks.number("diversity_penalty", self.diversity_penalty, 0.0, 1000.0, "0 to 1000")
        checks.number("penalty_alpha", self.penalty_alpha, 0.0, 1.0, "0 to 1")
        checks.number("guidance_scale", self.guidance_scale, -1000.0, 1000.0, "-1000 to 1000 (1 is none)")

    def _check_together(self) -> None:
        if self.min_tokens > self.max_tokens:
            raise BadInput(f"min_tokens ({self.min_tokens}) is above max_tokens ({self.max_tokens})")
        if self.beams:
            if self.n > self.num_beams:
                raise BadInput(
                    f"beam search with num_beams = {self.num_beams} has no {self.n} best answers",
                    remedy="raise num_beams, or lower n",
                )
            if self.best_of is not None:
                raise BadInput(
                    f"best_of = {self.best_of} draws answers, num_beams = {self.num_beams} searches for them"
                )
            if self.num_beams % self.num_beam_groups:
                raise BadInput(
                    f"{self.num_beams} beams cannot be shared out evenly among {self.num_beam_groups} groups"
                )
            if self.num_beam_groups > 1 and not self.diversity_penalty:
                raise BadInput(
                    "groups of beams without a diversity_penalty would all find the same",
                    remedy="give a diversity_penalty above 0",
                )
        elif self.best_of is not None:
            if self.n > self.best_of:
                raise BadInput(f"of best_of = {self.best_of} answers, n = {self.n} cannot be returned")
            if self.greedy:
                raise BadInput(
                    f"best_of = {self.best_of} greedy answers would all be the same",
                    remedy="give a temperature above 0",
                )
        elif self.n > 1 and (self.greedy or self.contrastive):
            raise BadInput(f"n = {self.n} answers would all be the same: nothing is drawn", remedy="give a temperature")
        self._check_strategy_alone()

    def _check_strategy_alone(self) -> None:
        if self.contrastive and self.beams:
            raise BadInput(f"penalty_alpha (contrastive search) and num_beams = {self.num_beams} contradict each other")
        if self.contrastive and self.guidance_scale != 1:
            raise BadInput("penalty_alpha (contrastive search) does not go with guidance")
        if self.contrastive and (self.top_k is None or self.top_k < 2):
            raise BadInput("contrastive search (penalty_alpha) needs a top_k of at least 2", remedy="give top_k = 4")
        if self.sliding:
            for name in ("num_beams", "penalty_alpha", "guidance_scale"):
                if getattr(self, name) != getattr(SamplingOptions, name):
                    raise BadInput(f"a sliding context does not go with {name} = {getattr(self, name)}")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0

    @property
    def beams(self) -> bool:
        """Whether this is beam search."""
        return self.num_beams > 1

    @property
    def contrastive(self) -> bool:
        """Whether this is contrastive search."""
        return self.penalty_alpha > 0

    @property
    def streamable(self) -> bool:
        """Whether the text of an answer is certain while it is written: one answer, neither searched nor chosen."""
        return self.drawn == 1 and not self.beams

    @property
    def drawn(self) -> int:
        """Answers that are written per prompt, of which `n` are returned."""
        return self.best_of or self.n

    def replace(self, **changes: Any) -> SamplingOptions:
        """Returns a copy with some options changed.

        A new `max_tokens` or `min_tokens` takes the place of an old `max_length` or `min_length`.

        Raises:
            BadInput: There is no such option, its value is wrong, or it would have no effect.
        """
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise unknown_name("option", name, known)
        if "max_tokens" in changes and "max_length" not in changes:
            changes["max_length"] = None
        if "min_tokens" in changes and "min_length" not in changes:
            changes["min_length"] = 0
        new = dataclasses.replace(self, **changes)
        new._refuse_idle(changes)
        return new

    @property
    def idle(self) -> dict[str, str]:
        """Options that have no effect beside the others, and what to do about it."""
        reasons: dict[str, str] = {}
        if not self.beams:
            reasons |= dict.fromkeys(BEAM_ONLY, "without beam search: give num_beams above 1")
        elif not self.beam_sampling:
            reasons |= dict.fromkeys(
                SHARPENING, "on beam search, which draws nothing: leave it out, or set beam_sampling"
            )
        if self.contrastive:
            drawing = set(SHARPENING) - {"top_k"}
            reasons |= dict.fromkeys(drawing, "on contrastive search, which draws nothing: leave it out")
        if self.guidance_scale == 1:
            reasons["negative_prompt"] = "without guidance: give a guidance_scale above 1"
        return reasons

    def _refuse_idle(self, given: dict[str, Any]) -> None:
        """Refuses options that were given on purpose and would do nothing; a temperature of 0 is what searching is."""
        for name, why in self.idle.items():
            value = given.get(name)
            if value and value != getattr(SamplingOptions, name):
                cause, remedy = why.split(": ")
                raise BadInput(f"{name} = {value} has no effect {cause}", remedy=remedy)
