"""The recipe: everything that decides a run, as one strict schema that YAML, `--set` and Python all fill.

Fields that are null are derived (most of them from `model.depth`) when the run starts; the run folder keeps the
complete, resolved recipe. Deriving is done where the knowledge is: sizes in `training.resolve`, not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zhixing.core.errors import BadInput, MissingResource, command, nearest
from zhixing.core.files import os_fault

MOST_STEPS = 999_999_999
"""The names of checkpoints have nine digits."""

INT64 = 1 << 63


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, and so are values of the wrong type."""

    model_config = ConfigDict(extra="forbid", strict=True, validate_assignment=True)


class DataRecipe(Section):
    """Where the text comes from and how it is divided."""

    paths: list[str] = Field(default_factory=list, description="files, folders and globs")
    field: str | None = Field(None, description="column or key that holds the text; null: found by looking")
    split: Literal["document", "tail"] = Field(
        "document", description="hold out whole documents, or the last characters"
    )
    validation_fraction: float = Field(0.05, gt=0, lt=1)
    separator: bool = Field(True, description="put the end-of-text token after every document")
    within_documents: bool = Field(False, description="limit attention to the document that a token belongs to")
    order: Literal["shuffle", "random"] = Field("shuffle", description="every block once an epoch, or random offsets")
    seed: int = Field(0, ge=-INT64, lt=INT64)


class TokenizerRecipe(Section):
    """The tokenizer to train, or the one to use."""

    path: str | None = Field(None, description="use this tokenizer (or a model's) instead of training one")
    kind: Literal["byte-bpe", "unigram", "wordpiece", "character", "byte"] = "byte-bpe"
    vocab_size: int | None = Field(None, ge=1, description="default: 8192; bytes and characters: as many as there are")
    special_tokens: list[str] | None = Field(None, description="default: an end-of-text token, and what the kind needs")
    sample_bytes: int | None = Field(None, ge=1, description="learn from at most this much text, sampled evenly")


class ModelRecipe(Section):
    """The network. Everything that is null follows from `depth`."""

    family: str = Field("nanochat", description="layout of the saved model")
    depth: int = Field(4, ge=1, le=1000, description="the one dial: number of layers")
    width: int | None = Field(None, ge=1, description="default: 64 * depth")
    head_dim: int | None = Field(None, ge=1, description="default: 64, or 32 for narrow models")
    heads: int | None = Field(None, ge=1, description="default: width / head_dim")
    kv_heads: int | None = Field(None, ge=1, description="default: heads")
    mlp_width: int | None = Field(None, ge=1, description="default: 4 * width, or 8/3 of it when gated")
    context: int = Field(256, ge=2, description="longest sequence, in tokens")
    hidden: int | None = Field(None, ge=1, description="rnn, lstm, gru: size of the state; default: width")
    order: int | None = Field(None, ge=1, description="ngram: length of the longest n-grams; default: 5")
    count_memory: int | None = Field(None, ge=1, description="ngram: bytes for sorting while counting; default: 1 GiB")
    tied: bool | None = Field(None, description="share embedding and output matrix; default: as the family does")
    logit_softcap: float | None = Field(None, gt=0)
    rope_theta: float | None = Field(None, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    init_std: float | None = Field(None, gt=0, description="default: 1/sqrt(fan_in)")
    embeddings: str | None = Field(None, description="word vectors that the embedding table starts from")
    zero_init_outputs: bool = True


class OptimizerRecipe(Section):
    """AdamW for everything, or Muon for the matrices and AdamW for the rest."""

    name: Literal["muon", "adamw"] = "muon"
    learning_rate: float | None = Field(None, gt=0, description="AdamW's, for all that Muon does not train")
    head_learning_rate: float | None = Field(None, gt=0, description="AdamW's, for a separate output head")
    matrix_learning_rate: float | None = Field(None, gt=0, description="Muon's")
    weight_decay: float = Field(0.0, ge=0)
    matrix_weight_decay: float = Field(0.0, ge=0)
    beta1: float = Field(0.8, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    eps: float = Field(1e-10, gt=0)
    momentum: float = Field(0.95, ge=0, lt=1, description="Muon's")
    attention_scale: float = Field(1.0, gt=0, description="factor on Muon's rate for the attention's matrices")
    newton_schulz_steps: int = Field(3, ge=1, le=10)
    newton_schulz_bound: float = Field(0.005, gt=0, lt=1, description="smallest relative singular value brought to one")


class ScheduleRecipe(Section):
    """The learning rate over the run, as a share of its peak."""

    shape: Literal["cosine", "linear", "wsd", "constant"] = "wsd"
    warmup_steps: int = Field(0, ge=0)
    decay_fraction: float = Field(0.5, ge=0, le=1, description="wsd: share of the run that decays linearly")
    final: float = Field(0.0, ge=0, le=1, description="share of the peak at the end")


class TrainRecipe(Section):
    """The loop."""

    objective: str = "causal"
    steps: int | None = Field(None, ge=1, le=MOST_STEPS, description="optimizer steps")
    tokens: int | None = Field(None, ge=1, lt=INT64, description="instead of steps: training tokens")
    minutes: float | None = Field(None, gt=0, description="instead of steps: time, from a measured step")
    flops: float | None = Field(None, gt=0, description="instead of steps: floating-point operations of training")
    batch_size: int | None = Field(None, ge=1, description="sequences in one forward pass")
    accumulate: int = Field(1, ge=1, description="forward passes per optimizer step")
    block: int | None = Field(None, ge=1, description="tokens per sequence; default: model.context")
    clip: float | None = Field(1.0, gt=0, description="largest gradient norm")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    matmul: Literal["auto", "torch", "onednn", "mixed"] = Field(
        "auto", description="library of float32 products on a CPU; mixed: oneDNN for all but weight gradients"
    )
    threads: int | None = Field(None, ge=1, description="default: as many as torch takes; rounding depends on it")
    compile: bool = False
    checkpoint_activations: bool = False
    average_decay: float | None = Field(None, gt=0, lt=1, description="keep an exponential average of the weights")
    seed: int = Field(0, ge=-INT64, lt=INT64)
    device: str = "auto"
    log_every: int = Field(10, ge=1)
    validate_every: int | None = Field(None, ge=1, description="steps; default: a tenth of the run")
    validation_tokens: int | None = Field(
        None,
        ge=1,
        description="held-out tokens measured on the way; default: a hundredth of the run's, 8,192 to 200,000",
    )
    evaluation_tokens: int = Field(200_000, ge=1, description="held-out tokens measured at the end")
    save_every: int | None = Field(None, ge=1, description="steps; default: with each validation")
    keep: int = Field(2, ge=1, description="newest checkpoints to keep, beside the best")
    keep_every: int | None = Field(None, ge=1, description="also keep every checkpoint at a multiple of this")
    spike: float = Field(3.0, gt=1, description="stop when the loss exceeds its running mean by this factor")


class Recipe(Section):
    """A whole run."""

    name: str = Field("run", pattern=r"^\w[\w.\-]*$", description="names the run folder, runs/NAME")
    data: DataRecipe = DataRecipe()
    tokenizer: TokenizerRecipe = TokenizerRecipe()
    model: ModelRecipe = ModelRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    schedule: ScheduleRecipe = ScheduleRecipe()
    train: TrainRecipe = TrainRecipe()

    def to_yaml(self) -> str:
        """Returns the recipe as YAML, in the order of the schema."""
        text: str = yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)
        return text


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe file and applies `section.key=value` overrides.

    Raises:
        MissingResource: The file is not there.
        BadInput: It is not YAML, a key is unknown (the nearest right key is named), or a value is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MissingResource(
            "no such recipe", where=str(path), remedy="ready ones are in recipes/; `zhixing quickstart` needs none"
        ) from error
    except UnicodeDecodeError as error:
        raise BadInput(
            "a recipe is a UTF-8 text file, this one is not", where=str(path), remedy="ready ones are in recipes/"
        ) from error
    except IsADirectoryError as error:
        again = (
            f"; to go on with a run: {command('zhixing', 'resume', path)}" if (path / "recipe.yaml").exists() else ""
        )
        raise BadInput(
            "a recipe is a file, this is a folder", where=str(path), remedy=f"name the file{again}"
        ) from error
    except OSError as error:
        raise os_fault(error, path, "reading the recipe") from error
    return parse_recipe(text, overrides, where=str(path))


def parse_recipe(text: str, overrides: Sequence[str] = (), where: str = "recipe") -> Recipe:
    """Builds a recipe from YAML text; see `load_recipe`."""
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}:{mark.line + 1}" if mark else where
        # Without a mark the library's text goes over several lines.
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).splitlines()[0]
        raise BadInput(f"not valid YAML: {problem}", where=place) from error
    except RecursionError as error:
        raise BadInput("nested beyond all bounds", where=where) from error
    if not isinstance(values, dict):
        raise BadInput(
            f"a recipe is a mapping of sections, not {'a list' if isinstance(values, list) else repr(values)[:60]}",
            where=where,
            remedy=f"begin lines with one of: {', '.join(Recipe.model_fields)}",
        )
    for override in overrides:
        apply_override(values, override)
    return build_recipe(values, where, [override.partition("=")[0].strip() for override in overrides])


def apply_override(values: dict[str, Any], override: str) -> None:
    """Sets one field of a nested mapping from `section.key=value`; the value is read as YAML."""
    key, equals, raw = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise BadInput(f"{override!r} is not KEY=VALUE", where="--set", remedy="for example: --set train.steps=500")
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise BadInput(f"the value {raw!r} is not valid YAML", where=f"--set {key}") from error
    except RecursionError as error:
        raise BadInput("the value is nested beyond all bounds", where=f"--set {key}") from error
    *sections, last = parts
    target = values
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise BadInput(
                f"{section!r} is a value, not a section",
                where=f"--set {key}",
                remedy=f"known sections: {', '.join(name for name in Recipe.model_fields if name != 'name')}",
            )
    target[last] = value


def build_recipe(values: dict[str, Any], where: str = "recipe", overridden: Iterable[str] = ()) -> Recipe:
    """Checks a nested mapping against the schema.

    Args:
        values: The sections.
        where: Where they come from, for messages.
        overridden: Keys that come from `--set` instead.

    Raises:
        BadInput: A key is unknown, or a value is wrong.
    """
    try:
        return Recipe.model_validate(_floats(values))
    except ValidationError as error:
        raise _explain(error, where, set(overridden)) from error
    except RecursionError as error:  # a YAML alias can make a mapping hold itself
        raise BadInput("nested beyond all bounds", where=where) from error


def _floats(value: Any) -> Any:
    """Reads numbers such as 3e-4, which YAML 1.1 takes for text, as numbers."""
    if isinstance(value, dict):
        return {key: _floats(item) for key, item in value.items()}
    if isinstance(value, str) and value[:1] in "+-.0123456789" and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _explain(error: ValidationError, where: str, overridden: set[str]) -> BadInput:
    """Turns pydantic's report into one message about the first fault, and says how many there are."""
    faults = error.errors(include_url=False)
    first = faults[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    more = f" ({len(faults) - 1} more faults)" if len(faults) > 1 else ""
    if key in overridden:
        where = f"--set {key}"
    if first["type"] in ("extra_forbidden", "invalid_key"):
        section: Any = Recipe
        for part in path[:-1]:
            section = section.model_fields[part].annotation
        known = list(section.model_fields)
        prefix = "".join(f"{part}." for part in path[:-1])
        close = nearest(path[-1], known)
        guess = _elsewhere(path[-1], exactly=True) or (prefix + close if close else _elsewhere(path[-1]))
        return BadInput(
            f"unknown key {key!r}{more}",
            where=where,
            remedy=f"{f'did you mean {guess}? ' if guess else ''}"
            f"known in {'.'.join(path[:-1]) or 'the recipe'}: {', '.join(known)}",
        )
    message = f"{first['msg'][:1].lower()}{first['msg'][1:]}"
    if first["type"] == "model_type":
        message = f"a section holds fields, as in {key}: {{NAME: VALUE}}"
    elif first["type"] == "string_pattern_mismatch":
        message = "only letters, digits, '_', '-' and '.' (not at the beginning) can be in it"
    remedy = f"--set {key}=VALUE overrides it" if "." in key and not where.startswith("--set") else "give another value"
    return BadInput(f"{key} = {repr(first['input'])[:80]}: {message}{more}", where=where, remedy=remedy)


def _elsewhere(key: str, *, exactly: bool = False) -> str | None:
    """Finds the section that has this key, or one like it, for a key that was put in the wrong one."""
    for name, field in Recipe.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            close = key if key in section.model_fields else None if exactly else nearest(key, section.model_fields)
            if close is not None:
                return f"{name}.{close}"
    return None
