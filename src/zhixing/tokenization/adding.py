"""A tokenizer with tokens of its own in addition to those that it was published with."""

from __future__ import annotations

from collections.abc import Sequence

from zhixing.core.errors import BadInput
from zhixing.tokenization.tokenizer import Tokenizer


def with_added_tokens(tokenizer: Tokenizer, names: Sequence[str]) -> Tokenizer:
    """Returns a tokenizer that reads each name as one special token, with ids behind those that there are.

    Raises:
        BadInput: A name is empty, given twice, or a token already.
    """
    for index, name in enumerate(names):
        if not name.strip() or name in names[:index]:
            raise BadInput(f"the token {name!r} is empty or given twice", where="tokenizer.add_tokens")
        if name in tokenizer.vocabulary:
            raise BadInput(
                f"{name!r} is a token already",
                where="tokenizer.add_tokens",
                remedy="leave it out, or choose another name",
            )
    first = tokenizer.vocab_size
    added = [
        {
            "id": first + index, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True,
        }
        for index, name in enumerate(names)
    ]  # fmt: skip
    definition = {**tokenizer.definition, "added_tokens": [*tokenizer.definition["added_tokens"], *added]}
    return Tokenizer(definition, {**tokenizer.config, **tokenizer.roles})
