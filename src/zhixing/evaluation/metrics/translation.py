"""BLEU, chrF and TER by sacrebleu: its tokenizers, counts, formulas and signatures.

sacrebleu counts; the value comes from its own formula over the summed counts. The formulas beside it here are the same
ones over many sums at once, for resampling. Papineni et al. 2002 (BLEU), Popović 2015 and 2017 (chrF, chrF++), Snover
et al. 2006 (TER), Post 2018 (sacrebleu).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from zhixing.core.errors import missing_extra, unknown_name
from zhixing.core.progress import progress_bar
from zhixing.evaluation.metrics.base import (
    FloatArray,
    Formula,
    Score,
    Statistics,
    as_lists,
    check_pairs,
    check_texts,
    make_score,
    ratio,
)
from zhixing.evaluation.metrics.scripts import Script, main_script

NAMES = ("bleu", "chrf", "chrf++", "ter")
ORDER = 4
BLOCK = 1000
"""Examples whose n-grams are held at a time."""
TOKENIZED = 100
"""From so many predictions that end in ' .' on, the texts look as if they had been cut into tokens before."""


def translation(
    predictions: Sequence[str],
    references: Sequence[str | Sequence[str]],
    names: Sequence[str] = ("bleu", "chrf", "ter"),
    *,
    tokenize: str | None = None,
    lowercase: bool = False,
) -> list[Score]:
    """Measures translations against one or several references each.

    Args:
        predictions: The translations, as plain text (not cut into tokens).
        references: A text, or a list of texts, for each.
        names: Of `NAMES`.
        tokenize: sacrebleu's tokenizer for BLEU (13a, zh, ja-mecab, char, intl, none, ...). By default that of the
            references' script: zh for Chinese, ja-mecab for Japanese and ko-mecab for Korean where it is installed,
            else char; 13a for all others. The signature shows it.
        lowercase: Ignore case (for BLEU and chrF; TER does by default, as sacrebleu has it).

    Raises:
        BadInput: The numbers differ, or the tokenizer is unknown.
        MissingResource: sacrebleu is not installed.
    """
    check_pairs(predictions, references)
    check_texts(predictions)
    lists = as_lists(references)
    script = main_script(text for several in lists[:2000] for text in several)
    scores = []
    for name in names:
        metric, notes = _metric(name, script, tokenize, lowercase)
        counts = _count(metric, predictions, lists, name)
        signature = f"{_title(name)}|{metric.get_signature().format()}"
        scores.append(_score(name, metric, counts, signature, notes + _looks_tokenized(name, predictions)))
    return scores


def _title(name: str) -> str:
    return {"bleu": "BLEU", "chrf": "chrF2", "chrf++": "chrF2++", "ter": "TER"}[name]


def _metric(name: str, script: Script, tokenize: str | None, lowercase: bool) -> tuple[Any, list[str]]:
    """Returns sacrebleu's metric, and what is to be said about the choice of its tokenizer."""
    try:
        from sacrebleu import BLEU, CHRF, TER
    except ImportError as error:
        raise missing_extra("sacrebleu", "eval", f"measuring {name}") from error
    if name == "bleu":
        if tokenize is not None and tokenize not in BLEU.TOKENIZERS:
            raise unknown_name("tokenizer", tokenize, BLEU.TOKENIZERS)
        chosen, notes = (tokenize, []) if tokenize else bleu_tokenizer(script)
        try:
            return BLEU(tokenize=chosen, lowercase=lowercase, force=True), notes
        except (ImportError, RuntimeError) as error:
            raise missing_extra(f"mecab for {chosen}", "eval", f"sacrebleu's tokenizer {chosen}") from error
    if name in ("chrf", "chrf++"):
        return CHRF(word_order=2 if name == "chrf++" else 0, lowercase=lowercase), []
    if name == "ter":
        asian = script in ("zh", "ja")
        # Without spaces a whole sentence would be one word: characters are the words there.
        notes = ["TER counts characters as words, as the references are Chinese or Japanese"] if asian else []
        return TER(normalized=asian, asian_support=asian), notes
    raise unknown_name("measure", name, NAMES)


def bleu_tokenizer(script: Script) -> tuple[str, list[str]]:
    """Returns sacrebleu's tokenizer for a script, and a note when it is not the recommended one."""
    if script == "zh":
        return "zh", []
    for language, package, name in (("ja", "MeCab", "ja-mecab"), ("ko", "mecab_ko", "ko-mecab")):
        if script == language:
            if importlib.util.find_spec(package) is not None:
                return name, []
            note = f"cut into characters, as {name} is not installed (pip install sacrebleu[{language}])"
            return "char", [note]
    return "13a", []


def _looks_tokenized(name: str, predictions: Sequence[str]) -> list[str]:
    if name != "bleu" or sum(text.endswith(" .") for text in predictions) < TOKENIZED:
        return []
    return ["many predictions end in ' .': BLEU wants plain text, not text that was cut into tokens"]


def _count(metric: Any, predictions: Sequence[str], references: list[list[str]], name: str) -> FloatArray:
    """Returns sacrebleu's statistics of each example, (examples, columns)."""
    counted: list[list[float]] = []
    with progress_bar(f"measuring {name}", len(predictions)) as bar:
        for start in range(0, len(predictions), BLOCK):
            several = references[start : start + BLOCK]
            most = max(map(len, several))
            streams = [[texts[k] if k < len(texts) else None for texts in several] for k in range(most)]
            # Its significance tests take the statistics from the same method; the public one keeps only the value.
            counted += metric._extract_corpus_statistics(predictions[start : start + BLOCK], streams)
            bar.advance(len(several))
    numbers = {len(texts) for texts in references}
    metric.num_refs = numbers.pop() if len(numbers) == 1 else -1  # of all blocks, for the signature
    return np.asarray(counted, dtype=np.float64)


def _score(name: str, metric: Any, counts: FloatArray, signature: str, notes: list[str]) -> Score:
    whole = metric._compute_score_from_stats([_plain(value) for value in counts.sum(axis=0)])
    formula: Formula
    details: dict[str, Any]
    if name == "bleu":
        formula = bleu_formula
        each = bleu_formula(counts, effective=True)
        details = {
            "precisions": [float(value) for value in whole.precisions],
            "brevity_penalty": float(whole.bp),
            "length": int(whole.sys_len),
            "reference_length": int(whole.ref_len),
        }
    elif name == "ter":
        formula = ter_formula
        each = ter_formula(counts)
        details = {"edits": float(counts[:, 0].sum()), "reference_length": float(counts[:, 1].sum())}
    else:
        formula = partial(chrf_formula, beta=float(metric.beta))
        each = formula(counts)
        details = {}
    return make_score(
        name,
        signature,
        Statistics.dense(counts, formula),
        each,
        value=float(whole.score),
        better="lower" if name == "ter" else "higher",
        top=None if name == "ter" else 100.0,
        details=details,
        notes=notes,
    )


def _plain(value: float) -> float:
    return int(value) if value == int(value) else float(value)


def bleu_formula(sums: FloatArray, effective: bool = False) -> FloatArray:
    """Computes BLEU, with sacrebleu's exponential smoothing.

    Args:
        sums: (..., [length, reference length, 4 x correct, 4 x total]).
        effective: Leave out orders for which the text is too short, as for single sentences.
    """
    length, wanted = sums[..., 0], sums[..., 1]
    correct, total = sums[..., 2 : 2 + ORDER], sums[..., 2 + ORDER :]
    penalty = np.where(length < wanted, np.exp(1 - ratio(wanted, length, np.inf)), 1.0)
    there = total > 0
    smoothing = 2.0 ** np.cumsum(there & (correct == 0), axis=-1)
    precision = ratio(np.where(correct > 0, correct, 1 / smoothing), total)
    logs = np.log(precision, out=np.zeros_like(precision), where=there).sum(axis=-1)
    order = there.sum(axis=-1) if effective else np.full(length.shape, ORDER)
    known = correct.any(axis=-1) & (there.all(axis=-1) | effective)
    return np.where(known, 100 * penalty * np.exp(logs / np.maximum(order, 1)), 0.0)


def chrf_formula(sums: FloatArray, beta: float = 2.0) -> FloatArray:
    """Computes chrF from (..., orders x [n-grams, the reference's, matches]): mean precision and recall, then F."""
    ours, theirs, both = (sums[..., place::3] for place in range(3))
    there = (ours > 0) & (theirs > 0)
    orders = there.sum(axis=-1)
    precision = ratio(np.where(there, ratio(both, ours), 0.0).sum(axis=-1), orders)
    recall = ratio(np.where(there, ratio(both, theirs), 0.0).sum(axis=-1), orders)
    return 100 * ratio((1 + beta**2) * precision * recall, beta**2 * precision + recall)


def ter_formula(sums: FloatArray) -> FloatArray:
    """Computes TER from (..., [edits, reference length]); words without any reference count as wholly wrong."""
    edits, length = sums[..., 0], sums[..., 1]
    return 100 * np.where(length > 0, ratio(edits, length), np.where(edits > 0, 1.0, 0.0))
