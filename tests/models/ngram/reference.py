"""Modified Kneser-Ney smoothing as the paper's formulas say it, one n-gram at a time, and helpers for these tests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from zhixing.data.shards import TokenStore
from zhixing.models.ngram.counting import CountPlan, count_ngrams
from zhixing.models.ngram.smoothing import Discounts, smooth
from zhixing.models.ngram.tables import NgramTables

BEGIN = -1


class Reference:
    """p(word | context) by Chen & Goodman (1998), from lists of ids that end with `end` where there is one."""

    def __init__(self, documents: list[list[int]], order: int, vocab_size: int) -> None:
        self.order, self.vocab_size = order, vocab_size
        padded = [[BEGIN, *document] for document in documents if document]
        raw: Counter[tuple[int, ...]] = Counter()
        for document in padded:
            for end in range(1, len(document)):
                for length in range(1, min(order, end + 1) + 1):
                    raw[tuple(document[end + 1 - length : end + 1])] += 1
        self.adjusted: list[dict[tuple[int, ...], int]] = []
        for length in range(1, order + 1):
            here = {}
            for gram, count in raw.items():
                if len(gram) == length:
                    before = {other[0] for other in raw if len(other) == length + 1 and other[1:] == gram}
                    here[gram] = count if length == order or gram[0] == BEGIN else len(before)
            self.adjusted.append(here)
        self.discounts = [self._discounts(here) for here in self.adjusted]

    @staticmethod
    def _discounts(here: dict[tuple[int, ...], int]) -> tuple[float, ...]:
        n = [sum(count == k for count in here.values()) for k in range(5)]
        if not (n[1] and n[2] and n[3]):
            return (0.0, 0.5, 1.0, 1.5)
        y = n[1] / (n[1] + 2 * n[2])
        d = (0.0, 1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3])
        return d if all(0 <= d[k] <= k for k in (1, 2, 3)) else (0.0, 0.5, 1.0, 1.5)

    def p(self, word: int, context: tuple[int, ...]) -> float:
        if BEGIN in context:
            context = context[len(context) - 1 - context[::-1].index(BEGIN) :]
        context = context[max(0, len(context) - self.order + 1) :]
        here, d = self.adjusted[len(context)], self.discounts[len(context)]
        lower = self.p(word, context[1:]) if context else 1 / self.vocab_size
        follow = [count for gram, count in here.items() if gram[:-1] == context]
        if not follow:
            return lower
        count, total = here.get((*context, word), 0), sum(follow)
        return (count - d[min(count, 3)]) / total + sum(d[min(c, 3)] for c in follow) / total * lower


def build(
    documents: list[list[int]], order: int, vocab_size: int, end: int | None, folder: Path, chunk: int = 1 << 16
) -> tuple[NgramTables, list[Discounts]]:
    store = TokenStore.from_documents(documents)
    plan = CountPlan(order, vocab_size, vocab_size if end is None else end, len(store), chunk)
    return smooth(count_ngrams(store, plan, folder / "counts"), folder)
