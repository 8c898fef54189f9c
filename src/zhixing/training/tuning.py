"""What a recipe's `tune` section does to a network that was trained before: which of its weights go on learning.

The adapters themselves are in `models.adapters`; how they are published, in `training.kinds.causal`.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from zhixing.core.errors import BadInput
from zhixing.core.recipe import ModelRecipe, Recipe, TuneRecipe
from zhixing.models.adapters import LowRankSpec, attach, attach_prompt, pack_frozen, train_last_layers
from zhixing.models.config import RopeScaling, TransformerConfig
from zhixing.models.quantized import BlockMatrix
from zhixing.models.transformer import Transformer
from zhixing.tokenization.tokenizer import Tokenizer

RATES = {"full": 1.0, "last": 2.0, "lora": 10.0, "prompt": 300.0}
"""Usual learning rates, in multiples of full tuning's: few new weights bear, and need, larger steps."""

ONLY = {
    "lora": ("rank", "alpha", "dropout", "rslora", "dora", "targets"),
    "last": ("layers",),
    "prompt": ("prompt_tokens", "prompt_text"),
}
"""Fields of the section that belong to one method."""


def check_tuning(recipe: Recipe) -> None:
    """Refuses fields that contradict each other or mean nothing for the method.

    Raises:
        BadInput: Naming the field.
    """
    tune, fields = recipe.tune, TuneRecipe.model_fields
    if tune != TuneRecipe() and recipe.model.start is None:
        raise BadInput(
            "tuning goes on from a model, and none is named",
            where="model.start",
            remedy="name one: --set model.start=smollm2-135m",
        )
    for method, keys in ONLY.items():
        for key in keys:
            if method != tune.method and getattr(tune, key) != fields[key].default:
                raise BadInput(
                    f"tune.{key} is for the method {method!r}, and tune.method is {tune.method!r}",
                    where=f"tune.{key}",
                    remedy=f"leave it out, or set tune.method: {method}",
                )
    if tune.bits is not None and tune.method in ("full", "last"):
        raise BadInput(
            f"tune.bits packs weights that stay as they are, and tune.method {tune.method!r} trains them",
            where="tune.bits",
            remedy="leave it out, or set tune.method: lora",
        )
    if tune.publish == "merged" and tune.method != "lora":
        raise BadInput(
            "only low-rank adapters can be folded into the weights", where="tune.publish", remedy="leave it out"
        )
    whole = tune.method in ("full", "last") or tune.publish == "merged"
    if tune.rope_scaling is not None and not whole:
        raise BadInput(
            "an adapter cannot carry a longer context: its base says how positions are turned",
            where="tune.rope_scaling",
            remedy="set tune.publish: merged",
        )
    if recipe.tokenizer.add_tokens and (tune.bits is not None or tune.method in ("prompt", "last")):
        raise BadInput(
            "new tokens need an embedding table that is trained",
            where="tokenizer.add_tokens",
            remedy="set tune.method: full or lora, without tune.bits",
        )


def stretched(config: TransformerConfig, model: ModelRecipe, tune: TuneRecipe) -> TransformerConfig:
    """Returns the configuration with the recipe's context, dropout and way of stretching positions.

    Raises:
        BadInput: The context is longer than the model's own, and nothing says how positions reach it.
    """
    config = dataclasses.replace(config, **model.named_dropout)
    wanted = model.context
    if tune.rope_scaling is None:
        if wanted > config.context:
            raise BadInput(
                f"model.context is {wanted}, but the model reads at most {config.context} tokens",
                where="model.context",
                remedy="lower it, or say how positions are stretched: --set tune.rope_scaling=yarn",
            )
        return config
    if config.position != "rotary" or config.rope_scaling is not None or wanted <= config.context:
        raise BadInput(
            f"positions are stretched from a plain rotary model's {config.context} tokens to a longer model.context,"
            f" which is {wanted}",
            where="tune.rope_scaling",
            remedy="set a longer model.context, or leave tune.rope_scaling out",
        )
    factor = wanted / config.context
    # Peng et al. 2023, equation 22: scores are scaled down a little as contexts get longer.
    attention = 0.1 * torch.tensor(factor).log().item() + 1.0 if tune.rope_scaling == "yarn" else 1.0
    scaling = RopeScaling(
        kind=tune.rope_scaling, factor=factor, original_context=config.context, attention_factor=attention
    )
    context = config.context if tune.rope_scaling == "dynamic" else wanted
    return dataclasses.replace(config, context=context, rope_scaling=scaling)


@torch.no_grad()
def start_new_tokens(model: Transformer, tokenizer: Tokenizer, before: Tokenizer) -> list[str]:
    """Gives tokens that a tokenizer got in addition rows of the tables: the mean of the pieces that spelled them.

    Args:
        model: Grown where it has too few rows.
        tokenizer: With the new tokens.
        before: Without them.

    Returns:
        The new tokens.
    """
    new = [name for name in tokenizer.vocabulary if name not in before.vocabulary]
    if not new:
        return []
    for module in [model.embedding, *([] if model.head is None else [model.head])]:
        table: Tensor = module.weight  # type: ignore[assignment]  # both have a weight
        if isinstance(table.data, BlockMatrix):
            raise BadInput("new tokens need a table that is not packed", where="tokenizer.add_tokens")
        missing = tokenizer.vocab_size - len(table)
        grown = torch.cat((table.data, table.data.mean(0).expand(max(0, missing), -1)))
        for name in new:
            pieces = before.encode(name)
            grown[tokenizer.vocabulary[name]] = table.data[pieces].mean(0) if pieces else table.data.mean(0)
        module.weight = nn.Parameter(grown)
    model.match_vocabulary()
    return new


def apply_tuning(model: Transformer, recipe: Recipe, tokenizer: Tokenizer, new_tokens: bool = False) -> list[str]:
    """Freezes, packs and adapts a network as the recipe's `tune` section says.

    Returns:
        What the user should know, in sentences.

    Raises:
        BadInput: A target fits nothing, or there are not so many layers.
    """
    tune, notes = recipe.tune, []
    generator = torch.Generator().manual_seed(recipe.train.seed)
    if tune.bits is not None:
        left = pack_frozen(model, tune.bits)
        if left:
            notes.append(
                f"{len(left)} matrices stay in float32, because their rows are no whole blocks: {left[0]}, ..."
            )
    match tune.method:
        case "full":
            for parameter in model.parameters():
                parameter.requires_grad_(True)
        case "last":
            train_last_layers(model, tune.layers)
        case "lora":
            spec = LowRankSpec(
                tune.rank, tune.alpha or 2.0 * tune.rank, tune.dropout, tune.rslora, tune.dora
            )  # fmt: skip
            attach(model, spec, targets=tune.targets, generator=generator)
        case "prompt":
            attach_prompt(model, _prompt_start(model, tune, tokenizer, generator))
    if new_tokens and tune.method == "lora":
        for module in [model.embedding, *([] if model.head is None else [model.head])]:
            module.weight.requires_grad_(True)
        notes.append("The embedding table is trained as a whole, because it has new tokens")
    return notes


def _prompt_start(model: Transformer, tune: TuneRecipe, tokenizer: Tokenizer, generator: torch.Generator) -> Tensor:
    """Returns the embeddings that learned tokens start from: those of a text, repeated, or of tokens drawn evenly."""
    if tune.prompt_text is not None:
        ids = tokenizer.encode(tune.prompt_text)
        if not ids:
            raise BadInput("tune.prompt_text has no tokens", where="tune.prompt_text")
        ids = (ids * -(-tune.prompt_tokens // len(ids)))[: tune.prompt_tokens]
    else:
        ids = torch.randint(tokenizer.vocab_size, (tune.prompt_tokens,), generator=generator).tolist()
    with torch.no_grad():
        start: Tensor = model.embedding(torch.tensor(ids))
        return start.float().clone()
