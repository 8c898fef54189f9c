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

import json
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from zhixing.core.errors import BadInput, unknown_name
from zhixing.core.progress import human_bytes, progress_bar
from zhixing.tokenization import definition as definitions
from zhixing.tokenization.decoding import ALPHABET
from zhixing.tokenization.definition import KNOWN_ROLES, Definition
from zhixing.tokenization.patterns import multilingual_pattern
from zhixing.tokenization.sample import Sample
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.tokenization.utf8 import utf8_size

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<|unk|>"
DEFAULT_VOCAB_SIZE = 8192
DEFAULT_MAX_BYTES = {"byte-bpe": 32_000_000, "unigram": 8_000_000, "wordpiece": 32_000_000}
"""How much text to learn from, by kind, when nothing else is said. Keeps training within a GB of memory; what more text
would change in a vocabulary of some ten thousand tokens is in its last few."""

CHINESE_WEIGHT = 4.0
"""How many times Chinese counts towards the bound. Its clauses, unlike words between spaces, hardly ever repeat:
learning from a MB of it takes about four times the time and the memory."""

MAX_TOKEN_BYTES = 64
"""No learned piece is longer: keeps lines of signs and boilerplate sentences out of the vocabulary."""


COVERAGE = 0.9995
"""The share of a text's characters that get a Unigram piece of their own, as in SentencePiece; bytes spell the rest."""

MARK = "\1"
"""Stands behind a word in the Unigram trainer's list, and in no piece."""

Learned = tuple[Definition, dict[str, int]]
"""A learned definition, and the counts of what has no token of its own."""


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


@dataclass(frozen=True)
class _Request:
    """The options of one training, checked."""

    vocab_size: int
    special: list[str]
    min_frequency: int
    max_digits: int


def train_tokenizer(
    texts: Iterable[str],
    kind: str = "byte-bpe",
    vocab_size: int | None = None,
    *,
    special_tokens: Sequence[str] | None = None,
    max_bytes: int | None = None,
    min_frequency: int = 2,
    max_digits: int = 3,
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
    start = time.perf_counter()
    left_out: dict[str, int] = {}
    used: int | None = None
    if kind == "byte":
        definition, documents, characters, size = _bytes(), 0, 0, 0
    elif kind == "character":
        counts, documents, size = _count_characters(texts)
        characters = counts.total()
        definition, left_out = _characters(counts, request, vocab_size is not None)
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
) -> _Request:
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
    return _Request(size, special, min_frequency, max_digits)


def _split(max_digits: int) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(multilingual_pattern(max_digits)), "isolated")


def _byte_bpe(texts: list[str], request: _Request) -> Learned:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [_split(request.max_digits), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=request.vocab_size - len(request.special),
        min_frequency=request.min_frequency,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=MAX_TOKEN_BYTES,
    )
    backend.train_from_iterator(texts, trainer)
    return _definition(backend), {}


def _unigram(texts: list[str], request: _Request) -> Learned:
    """Spaces stay spaces (no ▁), so that every text comes back exactly, also one that holds a ▁."""
    room = request.vocab_size - len(request.special) - 256
    characters: Counter[str] = Counter()
    words: Counter[str] = Counter()
    split = _split(request.max_digits)
    for text in texts:
        characters.update(text)
        words.update(word for word, _ in split.pre_tokenize_str(text))
    kept = _covering(characters, (room - 1) * 3 // 4)
    rare = characters.keys() - kept
    backend = Backend(models.Unigram())
    trainer = trainers.UnigramTrainer(
        vocab_size=max(room, len(kept) + 3) + 1,
        show_progress=False,
        special_tokens=[UNKNOWN],
        unk_token=UNKNOWN,
        max_piece_length=16,
    )
    backend.train_from_iterator(_unigram_sentences(words, rare), trainer)
    backend.pre_tokenizer = split
    definition = _definition(backend)
    model = definition["model"]
    pieces = [entry for entry in _settled(model["vocab"][1:]) if MARK not in entry[0]][: room - 1]
    floor = min((score for _, score in pieces), default=-1.0)
    byte_pieces = [[f"<0x{byte:02X}>", floor - 10.0] for byte in range(256)]
    model["vocab"] = [[UNKNOWN, 0.0], *pieces, *byte_pieces]
    model["unk_id"] = 0
    model["byte_fallback"] = True
    definition["decoder"] = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
    left_out = {"different rare characters are spelled by bytes": len(rare)} if rare else {}
    return definition, left_out


def _unigram_sentences(words: Counter[str], rare: Set[str]) -> Iterator[list[str]]:
    """Yields what the Unigram trainer learns from, in batches.

    The trainer insists on a piece for every character that it sees, so words are cut at rare ones. And its candidates
    are the substrings that go on in more than one way in its list of *different* words: a word that is no part of
    another ends in only one way and would never be a candidate, however common. So words that occur twice are listed
    once more with a mark behind them.
    """
    cut = str.maketrans(dict.fromkeys(rare, MARK))
    for word, count in words.items():
        for part in word.translate(cut).split(MARK) if rare else (word,):
            if part:
                yield [part] * count
                if count > 1 and len(part) > 1:
                    yield [part + MARK]


def _covering(counts: Counter[str], most: int) -> set[str]:
    """Returns the most frequent characters that make up COVERAGE of the text, at most so many."""
    kept: set[str] = set()
    covered, wanted = 0, COVERAGE * counts.total()
    for character, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
        if covered >= wanted or len(kept) >= most:
            break
        kept.add(character)
        covered += count
    return kept


def _settled(pieces: list[list[Any]]) -> list[list[Any]]:
    """Sorts a learned Unigram vocabulary by score, the same on every run.

    The trainer adds up in the order of a hash table, which changes the last digits: they are rounded off. It also gives
    characters that must stay but have no probability the lowest score and a little more, in that same order: here they
    all get the lowest.
    """
    rounded = [(piece, round(score, 6)) for piece, score in pieces]
    lowest = min((score for _, score in rounded), default=0.0)
    loose = lowest + 1e-4 * sum(len(piece) == 1 for piece, _ in rounded)
    settled = [(piece, lowest if len(piece) == 1 and score <= loose else score) for piece, score in rounded]
    return [[piece, score] for piece, score in sorted(settled, key=lambda entry: (-entry[1], entry[0]))]


def _wordpiece(texts: list[str], request: _Request) -> Learned:
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=False
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=True)
    trainer = trainers.WordPieceTrainer(
        vocab_size=request.vocab_size - len(request.special),
        min_frequency=request.min_frequency,
        show_progress=False,
        # The library numbers continuations in the order of a hash table, and the numbers decide between equal merges:
        # naming them first is what makes the result the same on every run. (`_finish` takes the list off again.)
        special_tokens=["[UNK]", *(f"##{character}" for character in _inner_characters(texts))],
    )
    backend.train_from_iterator(texts, trainer)
    return _definition(backend), {}


def _inner_characters(texts: Iterable[str]) -> list[str]:
    """Returns the characters that stand inside words by BERT's rules, sorted."""
    pairs: set[tuple[str, str]] = set()
    for text in texts:
        pairs.update(pairwise(text))

    def joins(character: str) -> bool:
        category = unicodedata.category(character)
        signs = category[0] in "PZC" or (character.isascii() and not character.isalnum())
        return not signs and not unicodedata.name(character, "").startswith("CJK ")

    inside = {character for pair in pairs for character in pair if joins(character)}
    return sorted({after for before, after in pairs if before in inside and after in inside})


LEARNERS: dict[str, Callable[[list[str], _Request], Learned]] = {
    "byte-bpe": _byte_bpe,
    "unigram": _unigram,
    "wordpiece": _wordpiece,
}
KINDS = (*LEARNERS, "character", "byte")
"""The kinds of tokenizer that can be made."""


def _definition(backend: Backend) -> Definition:
    definition: Definition = json.loads(backend.to_str())
    return definition


def _characters(counts: Counter[str], request: _Request, limited: bool) -> tuple[Definition, dict[str, int]]:
    """A BPE without merges: every character is a token, in sorted order."""
    unknown = _unknown(request.special)
    room = request.vocab_size - len(request.special) if limited else len(counts)
    kept = sorted(sorted(counts, key=lambda character: (-counts[character], character))[:room])
    left_out = {}
    if len(kept) < len(counts):
        if unknown is None:
            raise BadInput(
                f"the text has {len(counts)} different characters, which do not fit a vocabulary of "
                f"{request.vocab_size}, and there is no token for unknown ones",
                remedy=f"ask for {len(counts) + len(request.special)} tokens, or add {UNKNOWN!r} to the special tokens",
            )
        rare = counts.total() - sum(counts[character] for character in kept)
        left_out["different characters have no token of their own (they are the rarest)"] = len(counts) - len(kept)
        left_out["characters of the text become the unknown token"] = rare
    vocabulary = [*kept, unknown] if unknown else kept
    backend = Backend(models.BPE(vocab={piece: index for index, piece in enumerate(vocabulary)}, merges=[]))
    backend.decoder = decoders.Fuse()
    definition = _definition(backend)
    definition["model"]["unk_token"] = unknown
    return definition, left_out


def _bytes() -> Definition:
    spelling = {byte: character for character, byte in ALPHABET.items()}
    backend = Backend(models.BPE(vocab={spelling[byte]: byte for byte in range(256)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return _definition(backend)


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


def _unknown(special: Sequence[str]) -> str | None:
    return next((name for name in special if name in KNOWN_ROLES["unk_token"]), None)


def _finish(definition: Definition, request: _Request) -> Tokenizer:
    """Puts the special tokens behind all pieces, where no text can reach them, and gives them their roles."""
    vocabulary = definition["model"]["vocab"]
    pieces = [piece for piece, _ in vocabulary] if isinstance(vocabulary, list) else list(vocabulary)
    unknown = _unknown(request.special)
    if unknown is None:
        unknown = next((name for name in (UNKNOWN, "[UNK]") if name in pieces), None)
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
