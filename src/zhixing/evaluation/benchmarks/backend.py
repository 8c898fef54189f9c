"""Our networks as a model of lm-eval: log-likelihoods, rolling ones, and generation.

Tokens are those that lm-eval's own `hf` backend would make of the same folder: with the tokenizer's begin token where
it puts one, special tokens read in texts, and continuations cut off the tokens of the whole. This module imports
lm_eval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from zhixing.core.errors import BadInput
from zhixing.core.progress import progress_bar
from zhixing.evaluation.continuations import ContinuationScorer
from zhixing.generation import Generator, SamplingOptions
from zhixing.models.network import UNBOUNDED, CausalNetwork
from zhixing.tokenization.chat_format import ChatFormat
from zhixing.tokenization.tokenizer import Tokenizer

UNBOUNDED_WINDOW = 2048
"""Window of rolling likelihoods, and the longest prompt, for networks without a longest input."""
SIDE_BY_SIDE = 8
"""Texts written together."""
MOST_TOKENS = 256
"""Tokens that are written where the task does not say."""
KNOWN = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k"}
"""Settings of generation that are kept; a task that has others is refused."""


class NetworkLM(TemplateLM):  # type: ignore[misc]  # lm_eval has no types
    """A causal network as lm-eval sees models.

    Args:
        model: The network, in evaluation mode.
        tokenizer: Its tokenizer.
        name: What the user called it.

    Attributes:
        truncated: Requests that lost the beginning of their context.
    """

    def __init__(self, model: CausalNetwork, tokenizer: Tokenizer, name: str = "zhixing") -> None:
        super().__init__()
        self.model, self.tokens, self.name = model, tokenizer, name
        context = model.config.context
        self.max_length = UNBOUNDED_WINDOW if context == UNBOUNDED else context
        self.scorer = ContinuationScorer(model)
        self._cut_prompts = 0

    @property
    def truncated(self) -> int:
        """Requests that lost the beginning of their context."""
        return self.scorer.truncated + self._cut_prompts

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self._end()

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text without context."""
        return self.tokens.begin_id if self.tokens.begin_id is not None else self._end()

    def _end(self) -> int:
        for token in (self.tokens.end_of_text_id, self.tokens.begin_id):
            if token is not None:
                return token
        raise BadInput(
            "the tokenizer has neither a begin nor an end-of-text token, which benchmarks put before a text",
            where=self.name,
            remedy="train with a tokenizer that has one (tokenizer.special_tokens)",
        )

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer for lm-eval's caches."""
        return self.tokens.fingerprint[:16]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Returns the tokens of a text; special ones around it unless it begins with the begin token already."""
        begins = self.tokens.begin_id is not None and string.startswith(self.tokens.decode([self.tokens.begin_id]))
        special = not begins if add_special_tokens is None else add_special_tokens
        return self.tokens.encode(string, special=special, parse_special=True)

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        with progress_bar("Likelihoods", len(pairs)) as bar:
            return [(found.log_probability, found.greedy) for found in self.scorer(pairs, bar.advance)]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """See `lm_eval.api.model.LM`."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """See `lm_eval.api.model.LM`: every token of a text is predicted once, from the begin token on."""
        pairs: list[tuple[list[int], list[int]]] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for window in windows:
                pairs.append(make_disjoint_window(window))
                owners.append(number)
        sums = [0.0] * len(requests)
        with progress_bar("Likelihoods", len(pairs)) as bar:
            for owner, found in zip(owners, self.scorer(pairs, bar.advance), strict=True):
                sums[owner] += found.log_probability
        return sums

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """See `lm_eval.api.model.LM`."""
        groups: dict[str, tuple[dict[str, Any], list[int]]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), (request.args[1], []))[1].append(number)
        answers = [""] * len(requests)
        with progress_bar("Writing", len(requests)) as bar:
            for settings, numbers in groups.values():
                self._write([requests[k] for k in numbers], numbers, settings, answers, bar.advance)
        return answers

    def _write(
        self,
        requests: Sequence[Instance],
        numbers: Sequence[int],
        settings: dict[str, Any],
        answers: list[str],
        advance: Callable[[int], None],
    ) -> None:
        """Writes the answers to requests with the same settings, those of similar length side by side."""
        options = self.check_generation(settings)
        room = self.max_length - options.max_tokens
        prompts = [self.tok_encode(request.args[0]) for request in requests]
        self._cut_prompts += sum(len(prompt) > room for prompt in prompts)
        prompts = [prompt[-room:] for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda k: -len(prompts[k]))
        generator = Generator(self.model, self.tokens)
        for start in range(0, len(order), SIDE_BY_SIDE):
            group = order[start : start + SIDE_BY_SIDE]
            for k, answer in zip(group, generator.generate([prompts[k] for k in group], options), strict=True):
                answers[numbers[k]] = answer.text
            advance(len(group))

    def check_generation(self, settings: dict[str, Any]) -> SamplingOptions:
        """Returns how texts are written by a task's settings.

        Raises:
            BadInput: One is not known, or they leave no room for what is asked.
        """
        options = self._options(settings)
        if options.max_tokens >= self.max_length:
            raise BadInput(
                f"the task lets {options.max_tokens} tokens be written, the model reads {self.max_length} in all",
                where=self.name,
                remedy="lower the task's generation_kwargs.max_gen_toks",
            )
        return options

    def _options(self, settings: dict[str, Any]) -> SamplingOptions:
        values = normalize_gen_kwargs(dict(settings), MOST_TOKENS)
        if strange := sorted(set(values) - KNOWN):
            raise BadInput(f"the setting {strange[0]!r} of generation is not known", where="generation_kwargs")
        until = values.get("until") or []
        stops = tuple(stop for stop in ([until] if isinstance(until, str) else until) if stop)
        chosen: dict[str, Any] = {"temperature": 0.0, "max_tokens": values["max_gen_toks"], "stop": stops}
        if values.get("do_sample"):
            chosen["temperature"] = values.get("temperature", 1.0)
            chosen |= {key: values[key] for key in ("top_p", "top_k") if values.get(key) is not None}
        end = self._end()
        return SamplingOptions(end_tokens=(end,), whole_characters=False, **chosen)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Renders a conversation by the model's own template, in the sandbox."""
        return ChatFormat(self.tokens).render(chat_history, add_generation_prompt=add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Returns the template that is applied, for the record."""
        return self.tokens.chat_template if chat_template else None
