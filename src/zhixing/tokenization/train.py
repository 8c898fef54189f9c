"""Learning a tokenizer from text: byte-level BPE, Unigram, WordPiece, characters, bytes.

| kind | vocabulary | round trip |
|---|---|---|
| byte-bpe | 256 bytes and the most useful merges (Sennrich et al. 2016, on bytes as in GPT-2) | exact, any text |
| unigram | pieces of a unigram language model (Kudo 2018), 256 bytes for everything else | exact, any text |
| wordpiece | words and ##continuations, as BERT | lossy: spacing and unknown characters are not kept |
| character | one token for each character of the text | exact for known characters |
| byte | the 256 bytes; id = value of the byte | exact, any text |

Not here: reading files (the caller brings texts) and applying what was learned (`tokenizer`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from zhixing.core.errors import BadInput, unknown_name
from zhixing.core.progress import human_bytes, progress_bar
from zhixing.tokenization import definition as definitions
from zhixing.tokenization.definition import Definition
from zhixing.tokenization.learners import (
    UNKNOWN,
    Learned,
    Request,
    byte_bpe,
    byte_definition,
    character_definition,
    unknown_token,
    wordpiece,
)
from zhixing.tokenization.sample import Sample
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.tokenization.unigram import unigram
from zhixing.tokenization.utf8 import utf8_size

END_OF_TEXT = "<|endoftext|>"
DEFAULT_VOCAB_SIZE = 8192
DEFAULT_MAX_BYTES = {"byte-bpe": 32_000_000, "unigram": 8_000_000, "wordpiece": 32_000_000}
"""How much text to learn from, by kind, when nothing else is said. Keeps training within a GB of memory; what more text
would change in a vocabulary of some ten thousand tokens is in its last few."""

CHINESE_WEIGHT = 4.0
"""How many times Chinese counts towards the bound. Its clauses, unlike words between spaces, hardly ever repeat:
learning from a MB of it takes about four times the time and the memory."""


@dataclass(frozen=True)
class TrainingFacts:
    """What a tokenizer was learned from, for reports."""

    kind: str
    vocab_size: int
    requested_vocab_size: int | None
    documents_seen: int
    characters_seen: int
    bytes_seen: int
    bytes_used: int
    max_bytes: int | None
    seconds: float
    left_out: dict[str, int]
    """Counts of what did not get a token, by what it is."""

    @property
    def sampled(self) -> bool:
        """Whether only part of the text was used."""
        return self.bytes_used < self.bytes_seen

    def summary(self) -> list[str]:
        """Returns the facts in a few lines for people."""
        if self.kind == "byte":
            return [f"byte tokenizer with {self.vocab_size} tokens; nothing to learn"]
        used = f"learned from all {human_bytes(self.bytes_seen)}"
        if self.sampled:
            share = 100 * self.bytes_used / self.bytes_seen
            used = (
                f"learned from {human_bytes(self.bytes_used)} ({share:.3g} %) sampled evenly "
                f"from {human_bytes(self.bytes_seen)}"
            )
        lines = [
            f"{self.kind} tokenizer with {self.vocab_size} tokens, {used} "
            f"in {self.documents_seen} documents, {self.seconds:.1f} s"
        ]
        if self.requested_vocab_size is not None and self.vocab_size < self.requested_vocab_size:
            lines.append(
                f"{self.requested_vocab_size} tokens were asked for: the text repeats too little for more than "
                f"{self.vocab_size}"
            )
        lines += [f"{count} {what}" for what, count in self.left_out.items()]
        return lines

    def to_json(self) -> dict[str, Any]:
        """Returns the facts as plain data."""
        return {**asdict(self), "sampled": self.sampled}


class Trained(NamedTuple):
    """A new tokenizer and the facts of its training."""

    tokenizer: Tokenizer
    facts: TrainingFacts


def train_tokenizer(
    texts: Iterable[str],
    kind: str = "byte-bpe",
    vocab_size: int | None = None,
    *,
    special_tokens: Sequence[str] | None = None,
    max_bytes: int | None = None,
    min_frequency: int = 2,
    max_digits: int = 3,
    lowercase: bool = False,
    seed: int = 0,
) -> Trained:
    """Learns a tokenizer from texts.

    Args:
        texts: The documents. Read once, in order; never held in memory beyond `max_bytes`.
        kind: byte-bpe, unigram, wordpiece, character or byte.
        vocab_size: The number of tokens wanted, special tokens included; 8192 when not given. For characters: the
            most frequent ones (all when not given). Bytes need none.
        special_tokens: Tokens that no text can produce, placed after all others. The first is the end of text, which
            also begins and pads. When not given: "<|endoftext|>" (for characters also "<|unk|>"). With an empty list
            a character tokenizer is exactly the sorted characters of the text.
        max_bytes: Learn from at most this much text, sampled evenly over all of it; Chinese counts fourfold
            (CHINESE_WEIGHT). 32 MB when not given, for unigram 8 MB. Characters are counted over all the text.
        min_frequency: A pair is merged only if it occurs at least so often.
        max_digits: The most digits in one token (1 to 3; byte-bpe and unigram).
        lowercase: Read "The" as "the" and "é" as "e", as the uncased BERT models do (wordpiece).
        seed: Decides the sample.

    Returns:
        The tokenizer and the facts, which say how much text was seen and used.

    Raises:
        BadInput: An option cannot be, or there is no text.
    """
    if kind not in KINDS:
        raise unknown_name("kind of tokenizer", kind, KINDS)
    if max_bytes is None:
        max_bytes = DEFAULT_MAX_BYTES.get(kind, 1)
    request = _check(kind, vocab_size, special_tokens, max_bytes, min_frequency, max_digits)
    if lowercase and kind != "wordpiece":
        raise BadInput(
            f"only wordpiece tokenizers can read without case: {kind} gives every text back as it was",
            where="lowercase",
            remedy="leave it out, or choose wordpiece",
        )
    request = replace(request, lowercase=lowercase)
    start = time.perf_counter()
    left_out: dict[str, int] = {}
    used: int | None = None
    if kind == "byte":
        definition, documents, characters, size = byte_definition(), 0, 0, 0
    elif kind == "character":
        counts, documents, size = _count_characters(texts)
        characters = counts.total()
        definition, left_out = character_definition(counts, request, vocab_size is not None)
    else:
        sample = _read_sample(texts, max_bytes, seed)
        documents, characters, size, used = (
            sample.documents,
            sample.characters_seen,
            sample.bytes_seen,
            sample.bytes_used,
        )
        with progress_bar(f"learning the {kind} tokenizer") as bar:
            bar.advance(0, f"from {human_bytes(used)}")
            definition, left_out = LEARNERS[kind](sample.texts(), request)
    if not size and kind != "byte":
        raise BadInput("there is no text to learn a tokenizer from")
    tokenizer = _finish(definition, request)
    facts = TrainingFacts(
        kind=kind,
        vocab_size=tokenizer.vocab_size,
        requested_vocab_size=request.vocab_size if kind in LEARNERS else None,
        documents_seen=documents,
        characters_seen=characters,
        bytes_seen=size,
        bytes_used=size if used is None else used,
        max_bytes=max_bytes if kind in LEARNERS else None,
        seconds=time.perf_counter() - start,
        left_out=left_out,
    )
    return Trained(tokenizer, facts)


def _read_sample(texts: Iterable[str], max_bytes: int, seed: int) -> Sample:
    sample = Sample(max_bytes, seed, CHINESE_WEIGHT)
    with progress_bar("reading text for the tokenizer") as bar:
        for text in texts:
            before = sample.bytes_seen
            sample.add(text)
            bar.advance(sample.bytes_seen - before, human_bytes(sample.bytes_seen))
    return sample


def _check(
    kind: str,
    vocab_size: int | None,
    special_tokens: Sequence[str] | None,
    max_bytes: int,
    min_frequency: int,
    max_digits: int,
) -> Request:
    if special_tokens is None:
        special = [END_OF_TEXT, UNKNOWN] if kind == "character" else [END_OF_TEXT]
    else:
        special = list(special_tokens)
    if len(set(special)) < len(special) or "" in special:
        raise BadInput(f"the special tokens must be distinct and not empty, not {special}")
    size = DEFAULT_VOCAB_SIZE if vocab_size is None else vocab_size
    floor = {"byte-bpe": 256, "unigram": 256 + 2, "wordpiece": 2, "byte": 256}.get(kind, 1) + len(special)
    if kind == "byte":
        size = floor if vocab_size is None else size
        if size != floor:
            raise BadInput(f"a byte tokenizer with these special tokens has {floor} tokens, not {size}")
    if size < floor:
        raise BadInput(
            f"a vocabulary of {size} is too small for a {kind} tokenizer with {len(special)} special tokens",
            remedy=f"ask for at least {floor}",
        )
    for name, value, low, high in (
        ("max_bytes", max_bytes, 1, None),
        ("min_frequency", min_frequency, 1, None),
        ("max_digits", max_digits, 1, 3),
    ):
        if value < low or (high is not None and value > high):
            raise BadInput(f"{name} is {value}, but must be at least {low}{f' and at most {high}' if high else ''}")
    return Request(size, special, min_frequency, max_digits)


LEARNERS: dict[str, Callable[[list[str], Request], Learned]] = {
    "byte-bpe": byte_bpe,
    "unigram": unigram,
    "wordpiece": wordpiece,
}
KINDS = (*LEARNERS, "character", "byte")
"""The kinds of tokenizer that can be made."""


def _count_characters(texts: Iterable[str]) -> tuple[Counter[str], int, int]:
    """Returns how often each character occurs, the number of documents, and their UTF-8 bytes."""
    counts: Counter[str] = Counter()
    documents = size = 0
    with progress_bar("reading text for the tokenizer") as bar:
        for text in texts:
            counts.update(text)
            documents += 1
            added = utf8_size(text)
            size += added
            bar.advance(added, human_bytes(size))
    return counts, documents, size


def _finish(definition: Definition, request: Request) -> Tokenizer:
    """Puts the special tokens behind all pieces, where no text can reach them, and gives them their roles."""
    vocabulary = definition["model"]["vocab"]
    pieces = [piece for piece, _ in vocabulary] if isinstance(vocabulary, list) else list(vocabulary)
    model = definition["model"]
    unknown = UNKNOWN if model["type"] == "Unigram" else model.get("unk_token") or unknown_token(request.special)
    added: list[dict[str, Any]] = []
    fresh = len(pieces)
    for name in sorted({*request.special, *([unknown] if unknown else [])}, key=[*request.special, unknown].index):
        if name in pieces and name != unknown:
            raise BadInput(
                f"the special token {name!r} is also an ordinary piece of the learned vocabulary",
                remedy="choose a name that no text holds, such as <|name|>",
            )
        index = pieces.index(name) if name in pieces else fresh
        fresh += index == fresh
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        added.append({"id": index, "content": name, **flags})
    definition["added_tokens"] = sorted(added, key=lambda token: token["id"])
    names = [name for name in request.special if name != unknown]
    roles = definitions.guess_roles({token["content"]: token["id"] for token in added}, names)
    for role in ("eos_token", "bos_token", "pad_token"):
        if names:
            roles.setdefault(role, roles.get("eos_token", names[0]))
    if unknown:
        roles["unk_token"] = unknown
    return Tokenizer(definition, roles)
