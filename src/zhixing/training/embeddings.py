"""Starting an embedding table from word vectors: the tokens that spell a word begin where the word's vector is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from zhixing.core.errors import BadInput
from zhixing.models.vectors import WordVectors
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.word_vectors import token_word


@dataclass(frozen=True)
class Coverage:
    """How much of a table starts from vectors.

    Attributes:
        matched: Tokens that do.
        tokens: All tokens.
        share_of_text: The share of the training text's tokens that these are; None when that was not counted.
    """

    matched: int
    tokens: int
    share_of_text: float | None = None

    def describe(self) -> str:
        """Says it in a sentence."""
        text = f"{self.matched:,} of {self.tokens:,} tokens start from word vectors"
        return text if self.share_of_text is None else f"{text}, {100 * self.share_of_text:.1f} % of the training text"

    def facts(self) -> Mapping[str, object]:
        """Returns it as plain data."""
        return {"matched": self.matched, "tokens": self.tokens, "share_of_text": self.share_of_text}


def start_embeddings(
    embedding: nn.Embedding, tokenizer: Tokenizer, vectors: WordVectors, counts: NDArray[np.int64] | None = None
) -> Coverage:
    """Sets the rows of the tokens that spell a known word; all others stay as they are.

    A token is matched by its text without the blanks around it, then in lower case; fastText's vectors for unseen words
    are not used, since they would be made of nothing but the spelling. Vectors are centred and scaled together so that
    their mean is zero and their spread that of the rows they replace: the network starts in the range it was made for.

    Args:
        embedding: The table, (vocab, width), freshly initialised.
        tokenizer: Its tokens.
        vectors: Their size must be the width.
        counts: How often each token occurs in the training text, (vocab), for the report.

    Raises:
        BadInput: The sizes differ, or no token is among the words.
    """
    vocab, width = embedding.weight.shape
    if vectors.size != width:
        raise BadInput(
            f"the word vectors have {vectors.size} numbers, the embedding table {width}",
            where="model.embeddings",
            remedy=f"set model.width: {vectors.size}, or train vectors of size {width}",
        )
    tokens, rows = [], []
    for token in range(min(vocab, tokenizer.vocab_size)):
        word = token_word(tokenizer, token)
        if word is None:
            continue
        row = vectors.index.get(word, vectors.index.get(word.lower()))
        if row is not None:
            tokens.append(token)
            rows.append(row)
    if not tokens:
        raise BadInput(
            "no token of the tokenizer is among the words that have vectors",
            where="model.embeddings",
            remedy="train vectors of this tokenizer's tokens: zhixing vectors train --tokenizer ...",
        )
    with torch.no_grad():
        chosen = torch.from_numpy(np.ascontiguousarray(vectors.vectors[rows])).to(embedding.weight)
        spread = embedding.weight[tokens].std()
        if len(tokens) > 1:
            chosen = chosen - chosen.mean(dim=0)
        embedding.weight[tokens] = chosen * (spread / chosen.std().clamp_min(1e-12))
    share = float(counts[tokens].sum() / max(1, counts.sum())) if counts is not None else None
    return Coverage(len(tokens), vocab, share)
