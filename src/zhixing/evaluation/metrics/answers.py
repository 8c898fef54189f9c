"""Exact match and F1 of answers, by the definitions of SQuAD 1.1, SQuAD 2.0 and CMRC 2018, and plain equality.

Rajpurkar et al. 2016 and 2018, Cui et al. 2019; the definitions are those of their published evaluation programs. The
threshold under which SQuAD 2.0 takes a question for unanswerable is in `unanswerable`.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

import numpy as np

from zhixing.core.errors import BadInput, missing_extra, unknown_name
from zhixing.evaluation.metrics.base import (
    FloatArray,
    Score,
    check_pairs,
    check_texts,
    make_score,
    mean_of,
    short,
)
from zhixing.evaluation.metrics.unanswerable import apply_threshold, threshold_details

NAMES = ("exact_match", "squad_em", "squad_f1", "squad2_em", "squad2_f1", "cmrc_em", "cmrc_f1")

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
CMRC_PUNCTUATION = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
"""What CMRC's program leaves out. It lists "……" too, which as two characters never equals one."""
_CMRC_CHINESE = re.compile("[\u4e00-\u9fa5]")


def answers(
    predictions: Sequence[str],
    references: Sequence[str | Sequence[str]],
    names: Sequence[str] = ("squad_em", "squad_f1"),
    *,
    no_answer_probability: Sequence[float] | None = None,
    threshold: float = 1.0,
) -> list[Score]:
    """Measures answers against the accepted ones; the best of several counts.

    Args:
        predictions: The answers; "" says that there is none.
        references: The accepted answers of each question; for SQuAD 2.0 an empty list when it has none.
        names: Of `NAMES`.
        no_answer_probability: For SQuAD 2.0: how likely each question is unanswerable. Then the best thresholds are
            found.
        threshold: For SQuAD 2.0: above this probability the answer is taken to be "".

    Raises:
        BadInput: The numbers differ, or a question without accepted answers is measured by SQuAD 1.1 or CMRC.
        MissingResource: NLTK, which CMRC's F1 cuts English words with, is not installed.
    """
    check_pairs(predictions, references)
    check_texts(predictions)
    if no_answer_probability is not None and len(no_answer_probability) != len(predictions):
        raise BadInput(f"{len(predictions)} predictions but {len(no_answer_probability)} no-answer probabilities")
    scores = []
    for name in names:
        if name not in NAMES:
            raise unknown_name("measure", name, NAMES)
        rule, signature = _RULES[name]
        accepted = [_accepted(entry, number, name) for number, entry in enumerate(references, start=1)]
        values = np.array([rule(text, golds) for text, golds in zip(predictions, accepted, strict=True)])
        details: dict[str, float | int] = {}
        notes: list[str] = []
        if name.startswith("squad2_"):
            answerable = np.array([golds != [""] for golds in accepted])
            if no_answer_probability is not None:
                chance = np.asarray(no_answer_probability, dtype=np.float64)
                details |= threshold_details(values, chance, answerable, [bool(text) for text in predictions])
                values = apply_threshold(values, chance, answerable, threshold)
                signature += f"|no-answer threshold:{threshold:g}"
            details |= _by_answerability(values, answerable)
        if name == "exact_match":
            scores.append(make_score(name, signature, mean_of(values), values))
            continue
        scores.append(
            make_score(name, signature, mean_of(values, 100), 100 * values, top=100, details=details, notes=notes)
        )
    return scores


def _accepted(entry: str | Sequence[str], number: int, name: str) -> list[str]:
    several = [entry] if isinstance(entry, str) else list(entry)
    if not all(isinstance(text, str) for text in several):
        raise BadInput(f"example {number}: accepted answers are texts, not {short(entry)}")
    if name.startswith("squad2_"):
        # Answers that normalise to nothing do not count; a question without any has the one answer "".
        return [text for text in several if squad_normalise(text)] or [""]
    if not several:
        raise BadInput(
            f"example {number}: no accepted answer, which {name} does not know",
            remedy="measure unanswerable questions with squad2_em and squad2_f1",
        )
    return several


def _by_answerability(values: FloatArray, answerable: np.ndarray) -> dict[str, float | int]:
    details: dict[str, float | int] = {}
    for title, chosen in (("answerable", answerable), ("unanswerable", ~answerable)):
        details[title] = int(chosen.sum())
        if chosen.any():
            details[f"value_{title}"] = float(100 * values[chosen].mean())
    return details


def squad_normalise(text: str) -> str:
    """Lower case, without ASCII punctuation, without a, an and the, with single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def squad_exact(prediction: str, answers: Sequence[str]) -> float:
    """Returns 1 when the normalised prediction is one of the normalised answers."""
    ours = squad_normalise(prediction)
    return float(any(ours == squad_normalise(answer) for answer in answers))


def squad_f1(prediction: str, answers: Sequence[str], nothing_is_right: bool = False) -> float:
    """Returns the best F1 of the words in common, counted with repeats.

    Args:
        prediction: The answer.
        answers: The accepted ones.
        nothing_is_right: SQuAD 2.0's rule: where either has no words, 1 if neither has. SQuAD 1.1 gives 0.
    """
    return max(_word_f1(squad_normalise(prediction).split(), answer, nothing_is_right) for answer in answers)


def _word_f1(ours: list[str], answer: str, nothing_is_right: bool) -> float:
    theirs = squad_normalise(answer).split()
    if nothing_is_right and not (ours and theirs):
        return float(ours == theirs)
    common = (Counter(ours) & Counter(theirs)).total()
    return _f1(common, len(ours), len(theirs))


def _f1(common: int, ours: int, theirs: int) -> float:
    if not common:
        return 0.0
    precision, recall = common / ours, common / theirs
    return 2 * precision * recall / (precision + recall)


def cmrc_exact(prediction: str, answers: Sequence[str]) -> float:
    """Returns 1 when, in lower case and without CMRC's punctuation, the prediction is one of the answers."""
    ours = _cmrc_bare(prediction)
    return float(any(ours == _cmrc_bare(answer) for answer in answers))


def cmrc_f1(prediction: str, answers: Sequence[str]) -> float:
    """Returns the best F1 of the longest common stretch of segments: Chinese characters and other words."""
    ours = cmrc_segments(prediction)
    best = 0.0
    for answer in answers:
        theirs = cmrc_segments(answer)
        common = SequenceMatcher(None, theirs, ours, autojunk=False).find_longest_match().size
        best = max(best, _f1(common, len(ours), len(theirs)))
    return best


def _cmrc_bare(text: str) -> str:
    return "".join(character for character in text.lower().strip() if character not in CMRC_PUNCTUATION)


def cmrc_segments(text: str) -> list[str]:
    """Cuts a text, in lower case and without CMRC's punctuation, into Chinese characters and other words."""
    segments: list[str] = []
    other = ""
    for character in _cmrc_bare(text):
        if _CMRC_CHINESE.match(character):
            segments += _english_words(other)
            segments.append(character)
            other = ""
        else:
            other += character
    return segments + _english_words(other)


def _english_words(text: str) -> list[str]:
    if not text.strip():
        return []
    if text.isascii() and text.isalnum():  # one word, whatever tokenizer; saves most of the time
        return [text] if text not in _CONTRACTIONS else _treebank(text)
    return _treebank(text)


_CONTRACTIONS = frozenset("cannot d'ye gimme gonna gotta lemme more'n 'tis 'twas wanna whaddya whatcha".split())
"""Words that NLTK cuts although they look like one."""


def _treebank(text: str) -> list[str]:
    try:
        import nltk
    except ImportError as error:
        raise missing_extra("nltk", "eval", "CMRC's F1 on text that is not all Chinese") from error
    # Without cutting into sentences first, for which NLTK needs a download; it matters only where a full stop ends a
    # sentence inside a stretch of English.
    words: list[str] = nltk.word_tokenize(text, preserve_line=True)
    return words


def plain_exact(prediction: str, answers: Sequence[str]) -> float:
    """Returns 1 when the prediction is one of the answers but for white space at the ends."""
    return float(prediction.strip() in {answer.strip() for answer in answers})


Rule = Callable[[str, Sequence[str]], float]
_SQUAD = "normalised:lower case, no ASCII punctuation, no a/an/the|best of the accepted answers"
_CMRC = "normalised:lower case, no CMRC punctuation|best of the accepted answers"
_RULES: dict[str, tuple[Rule, str]] = {
    "exact_match": (plain_exact, "exact match|but for white space at the ends|best of the references"),
    "squad_em": (squad_exact, f"SQuAD 1.1 exact match|{_SQUAD}"),
    "squad_f1": (squad_f1, f"SQuAD 1.1 F1 of words|{_SQUAD}"),
    "squad2_em": (squad_exact, f"SQuAD 2.0 exact match|{_SQUAD}"),
    "squad2_f1": (lambda text, golds: squad_f1(text, golds, True), f"SQuAD 2.0 F1 of words|{_SQUAD}"),
    "cmrc_em": (cmrc_exact, f"CMRC 2018 exact match|{_CMRC}"),
    "cmrc_f1": (cmrc_f1, f"CMRC 2018 F1 of the longest common stretch|{_CMRC}|segments:characters and NLTK words"),
}
