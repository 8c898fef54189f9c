"""The options of generation, declared once for every command that writes, and how they read in its help and notes.

    @with_sampling_options
    def command(ref: ..., sampling: dict[str, Any]) -> None:

gives the command all options of `_declared`; `sampling` holds those that were given, under the names of
`SamplingOptions`. `Grouped` as the command's class shows them by panel; `in_force` and `describe` are for `--verbose`,
`setting` reads one option that is changed on the way.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from zhixing.api import LanguageModel
    from zhixing.generation import SamplingOptions

LENGTH, CHOICE, REPEATS, WORDS, SEARCH, GUIDANCE, OTHERS = (
    "Length and end", "Choice of the next token", "Repetition", "Single tokens and words", "Search", "Guidance",
    "All other options",
)  # fmt: skip


def _option(panel: str, help_: str, *names: str) -> Any:
    return typer.Option(*names, help=help_, rich_help_panel=panel)


def _declared(
    max_tokens: Annotated[int | None, _option(LENGTH, "Longest answer in tokens; 256 if the model says none.")] = None,
    min_tokens: Annotated[int | None, _option(LENGTH, "No end token before so many.")] = None,
    max_seconds: Annotated[float | None, _option(LENGTH, "Longest time for all answers.")] = None,
    stop: Annotated[list[str] | None, _option(LENGTH, "End before this text; repeat for more.")] = None,
    sliding: Annotated[
        bool, _option(LENGTH, "When the context is full, forget its older half and go on.", "--sliding")
    ] = False,
    temperature: Annotated[float | None, _option(CHOICE, "0 is greedy; below 1 bolder, above 1 more varied.")] = None,
    greedy: Annotated[bool, _option(CHOICE, "Always the likeliest token: --temperature 0.", "--greedy")] = False,
    top_k: Annotated[int | None, _option(CHOICE, "Choose among the k likeliest tokens; 0: among all.")] = None,
    top_p: Annotated[float | None, _option(CHOICE, "Choose among the likeliest that hold this share.")] = None,
    min_p: Annotated[float | None, _option(CHOICE, "Choose among those with this share of the likeliest's.")] = None,
    typical_p: Annotated[float | None, _option(CHOICE, "Choose among the least surprising in either way.")] = None,
    top_h: Annotated[float | None, _option(CHOICE, "Choose among those that hold this share of the entropy.")] = None,
    top_n_sigma: Annotated[float | None, _option(CHOICE, "Choose within n deviations of the highest logit.")] = None,
    epsilon_cutoff: Annotated[float | None, _option(CHOICE, "Choose among those at least so likely.")] = None,
    eta_cutoff: Annotated[float | None, _option(CHOICE, "Likewise; lower where the entropy is high.")] = None,
    seed: Annotated[int | None, _option(CHOICE, "The same seed gives the same text.")] = None,
    repetition_penalty: Annotated[
        float | None, _option(REPEATS, "Above 1: tokens that already occurred become less likely.")
    ] = None,
    presence_penalty: Annotated[
        float | None, _option(REPEATS, "Taken from the logits of the answer's tokens, once each.")
    ] = None,
    frequency_penalty: Annotated[float | None, _option(REPEATS, "Likewise, for every time that it came.")] = None,
    no_repeat_ngram_size: Annotated[int | None, _option(REPEATS, "No sequence of so many tokens comes twice.")] = None,
    logit_bias: Annotated[
        list[str] | None,
        _option(WORDS, "TEXT=NUMBER is added to its logit, #ID=NUMBER to a token's; repeat for more."),
    ] = None,
    bad_words: Annotated[list[str] | None, _option(WORDS, "Never write this; repeat for more.")] = None,
    num_beams: Annotated[int | None, _option(SEARCH, "Beam search with so many beams.")] = None,
    length_penalty: Annotated[
        float | None, _option(SEARCH, "Of beams: scores are divided by length to this power.")
    ] = None,
    early_stopping: Annotated[
        str | None, _option(SEARCH, "Of beams: true (as soon as enough have ended), false (by estimate), never.")
    ] = None,
    num_beam_groups: Annotated[int | None, _option(SEARCH, "Diverse groups of beams.")] = None,
    diversity_penalty: Annotated[float | None, _option(SEARCH, "How much groups of beams avoid each other.")] = None,
    beam_sampling: Annotated[
        bool, _option(SEARCH, "Draw the beams instead of taking the best.", "--beam-sampling")
    ] = False,
    penalty_alpha: Annotated[
        float | None, _option(SEARCH, "Contrastive search among --top-k: the weight of being different.")
    ] = None,
    best_of: Annotated[int | None, _option(SEARCH, "Draw so many answers, give the likeliest by mean.")] = None,
    guidance_scale: Annotated[float | None, _option(GUIDANCE, "Above 1: follow the prompt more closely.")] = None,
    negative_prompt: Annotated[str | None, _option(GUIDANCE, "The prompt that guidance leads away from.")] = None,
    settings: Annotated[
        list[str] | None,
        _option(OTHERS, "NAME=VALUE, any option of docs/generation.md; none or [] takes back the model's.", "--set"),
    ] = None,
) -> None:
    """Declares the options; never called."""


def with_sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of generation; its parameter `sampling` gets those that were given."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())
    shared = list(inspect.signature(_declared, eval_str=True).parameters.values())
    names = [parameter.name for parameter in shared]
    place = [parameter.name for parameter in own].index("sampling")

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:
        given = {name: values.pop(name) for name in names}
        command(**values, sampling=_given(given))

    parameters = [*own[:place], *shared, *own[place + 1 :]]
    keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    wrapped.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in keyword}
    return wrapped


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the options that were given, as `SamplingOptions` takes them."""
    from zhixing.core.errors import BadInput

    if values.pop("greedy"):
        if values["temperature"]:
            raise BadInput(
                f"--greedy and --temperature {values['temperature']} contradict each other", remedy="give one of them"
            )
        values["temperature"] = 0.0
    given = {name: value for name, value in values.items() if not (value is None or value is False or value == [])}
    if "early_stopping" in given:
        named = {"true": True, "false": False, "never": "never"}
        if given["early_stopping"] not in named:
            raise BadInput(f"--early-stopping must be true, false or never, got {given['early_stopping']!r}")
        given["early_stopping"] = named[given["early_stopping"]]
    if "logit_bias" in given:
        given["logit_bias"] = [_bias(text) for text in given["logit_bias"]]
    if values["top_k"] == 0:
        given["top_k"] = None
    for text in given.pop("settings", ()):
        name, value = setting(text)
        if name in given:
            raise BadInput(f"{name} is given twice, once as --set {text}", remedy="leave one out")
        given[name] = value
    return given


def _bias(text: str) -> tuple[str | tuple[int, ...], float]:
    """Reads TEXT=NUMBER or #ID=NUMBER."""
    from zhixing.core.errors import BadInput

    key, _, value = text.rpartition("=")
    try:
        bias = float(value)
    except ValueError:
        key = ""
    if not key:
        raise BadInput(f"--logit-bias must be TEXT=NUMBER or #ID=NUMBER, got {text!r}")
    return ((int(key[1:]),) if key[0] == "#" and key[1:].isdecimal() else key), bias


class Grouped(TyperCommand):
    """A command whose help shows its options by panel."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the arguments, then the options of each panel."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                panel = getattr(parameter, "rich_help_panel", None) or "Options"
                if parameter.param_type_name == "argument":
                    panel = "Arguments"
                panels.setdefault(panel, []).append(record)
        for panel, records in panels.items():
            with formatter.section(panel):
                formatter.write_dl(records)


def in_force(model: LanguageModel, given: dict[str, Any]) -> SamplingOptions:
    """Returns the options in force: the model's own, changed by the given ones."""
    return model.options.replace(**given)


def describe(model: LanguageModel, options: SamplingOptions, given: Container[str]) -> list[str]:
    """Returns what is in force, line by line, and where each value comes from.

    Args:
        model: Whose own options may be among them.
        options: What is in force.
        given: Names of the options that the user gave.
    """
    import dataclasses

    from zhixing.generation import chain_of

    lines, default, idle = [], [], options.idle
    for field in dataclasses.fields(options):
        name, value = field.name, getattr(options, field.name)
        if name == "end_tokens":
            value = _end_tokens(model, value)
        unused = f"; no effect {idle[name].split(':')[0]}" if name in idle else ""
        if name in given:
            lines.append(f"{name} {value} (command line{unused})")
        elif name in model.named and getattr(options, name) == getattr(model.options, name):
            lines.append(f"{name} {value} (the model's generation_config.json{unused})")
        else:
            default.append(f"{name} {value}")
    return [*lines, "by default: " + ", ".join(default), "in order: " + chain_of(options, model.tokenizer)]


def _end_tokens(model: LanguageModel, tokens: tuple[int, ...] | None) -> str:
    """Returns the end tokens in force as a user knows them."""
    tokenizer = model.tokenizer
    if tokens is None:
        tokens = () if tokenizer is None or tokenizer.end_of_text_id is None else (tokenizer.end_of_text_id,)
    known = range(tokenizer.vocab_size) if tokenizer is not None else range(0)
    return (
        " ".join(tokenizer.piece(token) if tokenizer and token in known else f"#{token}" for token in tokens) or "none"
    )


def setting(text: str) -> tuple[str, Any]:
    """Reads NAME=VALUE, as a user types it between two turns: a number, true, false, none, a JSON list or a text.

    Raises:
        BadInput: There is no "=". Whether there is such an option with such a value is for `SamplingOptions.replace`.
    """
    import json

    from zhixing.core.errors import BadInput

    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise BadInput(f"an option is set as NAME=VALUE, got {text!r}", remedy="for example: temperature=0.7")
    name, value = name.strip().lstrip("-").replace("-", "_"), value.strip()
    if value.lower() in ("none", ""):
        return name, None
    try:
        return name, json.loads(value.lower() if value.lower() in ("true", "false") else value)
    except ValueError:
        return name, value
