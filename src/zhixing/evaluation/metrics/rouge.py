"""ROUGE by rouge-score: mean F-measure of n-grams and longest common subsequences. Lin 2004.

rouge-score's own tokenizer keeps nothing but a-z and 0-9. Chinese and Japanese are therefore cut into characters by a
tokenizer that is handed to it, and other scripts into words of Unicode; the signature says which.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import re
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from zhixing.core.errors import missing_extra, unknown_name
from zhixing.core.progress import progress_bar
from zhixing.evaluation.metrics.base import Score, as_lists, check_pairs, check_texts, make_score, mean_of
from zhixing.evaluation.metrics.scripts import HAN, KANA, main_script

NAMES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
TITLES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "rougeLsum": "ROUGE-Lsum"}

Tokenizer = Literal["rouge-score", "characters", "unicode"]
FOREIGN_SHARE = 0.2
"""From this share of letters outside a-z on, rouge-score's tokenizer would lose too much of a text."""


def rouge(
    predictions: Sequence[str],
    references: Sequence[str | Sequence[str]],
    names: Sequence[str] = NAMES,
    *,
    tokenize: str | None = None,
    stemmer: bool = False,
) -> list[Score]:
    """Measures summaries against one or several references each; of several, the one with the best F counts.

    Args:
        predictions: The summaries. For ROUGE-Lsum each line is a sentence.
        references: A text, or a list of texts, for each.
        names: Of `NAMES`.
        tokenize: "rouge-score" (words of a-z and 0-9), "characters" (every Chinese or Japanese character alone, other
            letters in words), or "unicode" (words of any script). Chosen by the references' script when not given.
        stemmer: Strip English suffixes (Porter), only with rouge-score's tokenizer.

    Raises:
        BadInput: The numbers differ, or the tokenizer is unknown.
        MissingResource: rouge-score is not installed.
    """
    check_pairs(predictions, references)
    check_texts(predictions)
    lists = as_lists(references)
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise missing_extra("rouge-score", "eval", "measuring ROUGE") from error
    for name in names:
        if name not in NAMES:
            raise unknown_name("measure", name, NAMES)
    kind, notes = choose_tokenizer([text for several in lists for text in several], tokenize)
    own = None if kind == "rouge-score" else RougeTokenizer(kind)
    scorer = RougeScorer(list(names), use_stemmer=stemmer, tokenizer=own)
    found = np.empty((len(names), len(predictions), 3))  # (measure, example, precision recall F)
    with progress_bar("measuring ROUGE", len(predictions)) as bar:
        for number, (prediction, several) in enumerate(zip(predictions, lists, strict=True)):
            best = scorer.score_multi(several, prediction)
            for place, name in enumerate(names):
                found[place, number] = best[name]
            bar.advance()
    version = importlib.metadata.version("rouge-score")
    stemming = "yes" if stemmer and own is None else "no"
    scores = []
    for name, values in zip(names, found, strict=True):
        signature = f"{TITLES[name]}|F-measure|tok:{kind}|stemmer:{stemming}"
        signature += "|sentences:lines" if name == "rougeLsum" else ""
        details = {"precision": float(values[:, 0].mean()), "recall": float(values[:, 1].mean())}
        statistics = mean_of(values[:, 2])
        full = f"{signature}|rouge-score:{version}"
        scores.append(make_score(name, full, statistics, values[:, 2], details=details, notes=notes))
    return scores


def choose_tokenizer(texts: Sequence[str], asked: str | None) -> tuple[Tokenizer, list[str]]:
    """Returns the tokenizer for texts, and what is to be said about it."""
    known = get_args(Tokenizer)
    if asked is not None and asked not in known:
        raise unknown_name("tokenizer", asked, known)
    sample = "".join(itertools.islice(texts, 2000))
    letters = len(re.findall(r"[^\W\d_]", sample))
    foreign = letters - len(re.findall(r"[A-Za-z]", sample))
    share = foreign / letters if letters else 0.0
    if asked is not None:
        lost = asked == "rouge-score" and share >= 0.005
        notes = [f"rouge-score's tokenizer drops {100 * share:.0f} % of the references' letters"] if lost else []
        return asked, notes  # type: ignore[return-value]
    if main_script(texts) in ("zh", "ja"):
        return "characters", []
    if share >= FOREIGN_SHARE:
        return "unicode", []
    note = f"rouge-score's tokenizer drops {100 * share:.1f} % of the references' letters (all but a-z and 0-9)"
    return "rouge-score", [note] if share >= 0.005 else []


class RougeTokenizer:
    """Cuts lower-cased text into words, and with "characters" every Chinese or Japanese character by itself.

    Punctuation is left out, as in rouge-score's own.
    """

    def __init__(self, kind: Tokenizer) -> None:
        single = f"[{HAN}{KANA}]|" if kind == "characters" else ""
        word = rf"(?:(?![{HAN}{KANA}])[^\W_])+" if kind == "characters" else r"[^\W_]+"
        self._pattern = re.compile(single + word)

    def tokenize(self, text: str) -> list[str]:
        """Returns the tokens of a text."""
        return self._pattern.findall(text.lower())
