"""The networks that a recipe can name: what configuration its model section describes, and what is built from it."""

from __future__ import annotations

from typing import Any

from zhixing.core.errors import BadInput, unknown_name
from zhixing.core.recipe import ModelRecipe
from zhixing.families import FAMILIES, family_named
from zhixing.models.config import TransformerConfig
from zhixing.models.recurrent import CELLS, RecurrentConfig, RecurrentNetwork
from zhixing.models.transformer import Transformer
from zhixing.training.resolve_counting import FAMILY as COUNTED

OTHER_FIELDS = {
    "hidden": "recurrent models",
    "order": "n-gram models",
    "count_memory": "n-gram models",
    **dict.fromkeys(("head_dim", "heads", "kv_heads", "mlp_width", "attention_dropout"), "Transformers"),
    **dict.fromkeys(("logit_softcap", "rope_theta"), "Transformers"),
}
"""Fields of the model section that not every network has, and which networks have them."""

WIDTH_PER_LAYER = 64
RECURRENT_WIDTH = 256


def network_config(recipe: ModelRecipe, vocab_size: int) -> TransformerConfig | RecurrentConfig:
    """Builds the network's configuration from the recipe's model section and the vocabulary's size.

    Raises:
        BadInput: There is no such family, or the fields contradict one another or it.
    """
    recurrent = next((cell for cell in CELLS if cell == recipe.family), None)
    if recurrent is None and recipe.family not in FAMILIES:
        known = [*FAMILIES, *CELLS, COUNTED]
        raise unknown_name("model family", recipe.family, known, where="model.family")
    mine = "Transformers" if recurrent is None else "recurrent models"
    for key, whose in OTHER_FIELDS.items():
        if whose != mine and getattr(recipe, key):
            raise BadInput(
                f"model.{key} is of {whose}, and {recipe.family!r} is not one",
                where=f"model.{key}",
                remedy="leave it out, or choose another model.family",
            )
    return model_config(recipe, vocab_size) if recurrent is None else _recurrent(recipe, vocab_size)


def _recurrent(recipe: ModelRecipe, vocab_size: int) -> RecurrentConfig:
    cell = next(cell for cell in CELLS if cell == recipe.family)
    width = recipe.width or RECURRENT_WIDTH
    return RecurrentConfig(
        vocab_size=vocab_size, cell=cell, width=width, hidden=recipe.hidden or width, layers=recipe.depth,
        tied=bool(recipe.tied), dropout=recipe.dropout or 0.0, init_std=recipe.init_std,
        zero_init_outputs=recipe.zero_init_outputs,
    )  # fmt: skip


def model_config(recipe: ModelRecipe, vocab_size: int) -> TransformerConfig:
    """Builds a Transformer's configuration from the recipe's model section and the vocabulary's size.

    Raises:
        BadInput: The fields contradict one another or the family.
    """
    family = family_named(recipe.family)
    fixed: dict[str, Any] = dict(family.fixed)
    open_fields = dict(family.defaults)
    width = recipe.width or WIDTH_PER_LAYER * recipe.depth
    head_dim = recipe.head_dim or (width // recipe.heads if recipe.heads else min(width, 64 if width >= 256 else 32))
    heads = recipe.heads or max(1, width // head_dim)
    if recipe.heads and not recipe.head_dim and width % recipe.heads:
        raise BadInput(
            f"model.width ({width}) is not a multiple of model.heads ({recipe.heads})",
            where="model",
            remedy="choose heads that divide the width, or set model.head_dim",
        )
    gated = bool(fixed.get("gated", False))
    mlp_width = recipe.mlp_width or (-(-8 * width // 3 // 64) * 64 if gated else 4 * width)
    chosen: dict[str, Any] = {"rope_theta": recipe.rope_theta, "tied": recipe.tied}
    if "logit_softcap" not in fixed:
        chosen["logit_softcap"] = recipe.logit_softcap
    open_fields |= {key: value for key, value in chosen.items() if value is not None}
    return TransformerConfig(
        vocab_size=vocab_size, width=width, layers=recipe.depth, heads=heads, kv_heads=recipe.kv_heads or heads,
        head_dim=head_dim, mlp_width=mlp_width, context=recipe.context,
        dropout=recipe.dropout or 0.0, attention_dropout=recipe.attention_dropout or 0.0,
        init_std=recipe.init_std, zero_init_outputs=recipe.zero_init_outputs,
        **fixed, **open_fields,
    )  # fmt: skip


def build_network(config: TransformerConfig | RecurrentConfig) -> Transformer | RecurrentNetwork:
    """Builds a network without values of its own: `initialise` draws them."""
    return RecurrentNetwork(config) if isinstance(config, RecurrentConfig) else Transformer(config)
