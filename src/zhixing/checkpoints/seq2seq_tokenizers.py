"""The tokenizers of an encoder-decoder's folder: one for both sides, or one for sources and one for targets.

Marian keeps two SentencePiece models (source.spm, target.spm) and a vocabulary (vocab.json) that gives their pieces
ids; the files are kept as they are and written back unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.files import read_json
from zhixing.families.seq2seq import Seq2SeqFamily
from zhixing.models.encoder_decoder import EncoderDecoderConfig
from zhixing.tokenization.definition import Definition
from zhixing.tokenization.sentencepiece import NORMAL, UNIGRAM, read_model, to_definition
from zhixing.tokenization.tokenizer import Tokenizer

SENTENCEPIECE = ("source.spm", "target.spm", "vocab.json")
OPTIONAL = ("target_vocab.json", "tokenizer_config.json")
MOST_BYTES = 64 << 20

T5_PIECES = 100
"""Sentinels of T5 that its SentencePiece model leaves out."""


@dataclass(frozen=True)
class Tokenizers:
    """How sources become tokens, and how tokens become targets.

    Attributes:
        source: Of the sources.
        target: Of the targets; the same object where one tokenizer does for both.
        begin: The token that every source begins with, if any.
        end: The token that sources and targets end with, if any.
        files: Files to write back as they are, instead of tokenizer.json.
    """

    source: Tokenizer
    target: Tokenizer
    begin: int | None = None
    end: int | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)

    def encode_source(self, text: str) -> list[int]:
        """Returns the tokens of a source, with what the network expects around it."""
        return self._around(self.source.encode(text, special=True), self.begin)

    def encode_target(self, text: str) -> list[int]:
        """Returns the tokens of a target, framed like a source; before it stands the network's start token."""
        return self._around(self.target.encode(text, special=True), self.begin)

    def _around(self, tokens: list[int], begin: int | None) -> list[int]:
        if begin is not None and tokens[:1] != [begin]:
            tokens = [begin, *tokens]
        if self.end is not None and tokens[-1:] != [self.end]:
            tokens = [*tokens, self.end]
        return tokens

    @property
    def special(self) -> dict[str, int | None]:
        """The ids of the special tokens, by the keys of config.json."""
        source = self.source
        return {"bos_token_id": source.begin_id, "eos_token_id": self.end, "pad_token_id": source.pad_id}

    def save(self, folder: Path) -> None:
        """Writes them into a model folder."""
        if self.files:
            for name, content in self.files.items():
                (folder / name).write_bytes(content)
            return
        self.source.save(folder)


def open_tokenizers(folder: Path, family: Seq2SeqFamily | None, config: EncoderDecoderConfig) -> Tokenizers | None:
    """Opens the tokenizers of a model folder, or returns None where there is none.

    Raises:
        MissingResource: One of Marian's files is there without the others.
        BadInput: One is damaged, or has more tokens than the network.
    """
    found = read_tokenizers(folder, family)
    if found is None:
        return None
    for tokenizer, size in ((found.source, config.source_vocab_size), (found.target, config.vocab_size)):
        if tokenizer.vocab_size > size:
            raise BadInput(
                f"the tokenizer has {tokenizer.vocab_size} tokens but the model only {size}",
                where=str(folder),
                remedy="the tokenizer belongs to another model: put the right one here",
            )
    return found


def read_tokenizers(folder: Path, family: Seq2SeqFamily | None) -> Tokenizers | None:
    """Reads the tokenizers of a folder, whatever the size of the network beside them; None where there is none.

    Raises:
        MissingResource: One of Marian's files is there without the others.
        BadInput: One is damaged.
    """
    names = {path.name for path in folder.iterdir()}
    if names & {"source.spm", "target.spm"} and "tokenizer.json" not in names:
        found = _open_marian(folder)
    elif names & {"tokenizer.json", "spiece.model", "vocab.json", "vocab.txt", "tokenizer.model"}:
        one = Tokenizer.load(folder)
        if family is not None and family.name == "t5" and "tokenizer.json" not in names:
            one = _with_sentinels(one)
        found = Tokenizers(one, one)
    else:
        return None
    begin = found.source.begin_id if family is not None and family.begin else None
    end = found.target.end_of_text_id if family is None or family.end else None
    return Tokenizers(found.source, found.target, begin, end, found.files)


def _with_sentinels(tokenizer: Tokenizer) -> Tokenizer:
    """Adds T5's sentinels, <extra_id_99> to <extra_id_0>, behind the pieces of its SentencePiece model."""
    definition = dict(tokenizer.definition)
    start = tokenizer.vocab_size
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [
        {"id": start + number, "content": f"<extra_id_{T5_PIECES - 1 - number}>", **flags}
        for number in range(T5_PIECES)
    ]
    definition["added_tokens"] = [*definition["added_tokens"], *added]
    return Tokenizer(definition, {**tokenizer.config, **tokenizer.roles})


def _open_marian(folder: Path) -> Tokenizers:
    files: dict[str, bytes] = {}
    for name in (*SENTENCEPIECE, *OPTIONAL):
        path = folder / name
        if path.is_file():
            if path.stat().st_size > MOST_BYTES:
                raise BadInput(f"more than {MOST_BYTES >> 20} MB: no tokenizer file is so large", where=str(path))
            files[name] = path.read_bytes()
        elif name in SENTENCEPIECE:
            raise MissingResource(f"{name} is missing", where=str(folder), remedy="copy the folder again, whole")
    shared = folder / "vocab.json"
    target = folder / "target_vocab.json" if "target_vocab.json" in files else shared
    sides = (("source.spm", shared), ("target.spm", target))
    source, written = (_marian(files[name], vocabulary, folder / name) for name, vocabulary in sides)
    return Tokenizers(source, written, files=files)


def _marian(content: bytes, vocabulary: Path, where: Path) -> Tokenizer:
    """Builds the tokenizer of one side: the pieces and scores of a SentencePiece model under the ids of a vocabulary.

    What the vocabulary has and the model has not (pieces of the other language, longer than a character) keeps its id
    under a spelling that no text holds; what only the model has cannot be written, and is left out. Of several
    characters in a row that the model has never seen the first tokenizer makes one unknown token; this one keeps those
    among them that the vocabulary has.
    """
    ids = read_json(vocabulary)
    if not isinstance(ids, dict) or sorted(ids.values()) != list(range(len(ids))):
        raise BadInput("not a mapping from pieces to the numbers 0, 1, 2, ...", where=str(vocabulary))
    model = read_model(content)
    if model.model_type != UNIGRAM:
        raise BadInput("only SentencePiece models of the Unigram kind are known for Marian", where=str(where))
    definition: Definition = to_definition(model)
    scores = {piece.text: piece.score for piece in model.pieces}
    special = [name for name in ("</s>", "<unk>", "<pad>") if name in ids]
    languages = [name for name in ids if name.startswith(">>") and name.endswith("<<")]
    # A character that the model does not know costs that much; Marian then looks it up in the vocabulary all the same.
    unknown = min((piece.score for piece in model.pieces if piece.type == NORMAL), default=0.0) - 10.0
    entries: list[list[Any]] = []
    for name in sorted(ids, key=ids.__getitem__):
        known = name in scores or name in special or name in languages or len(name) == 1
        entries.append([name if known else f"\U0010fffe{ids[name]}\U0010ffff", scores.get(name, unknown)])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    definition["added_tokens"] = [
        {"id": ids[name], "content": name, **flags, "special": name in special}
        for name in sorted([*special, *languages], key=ids.__getitem__)
    ]
    definition["model"] = {**definition["model"], "vocab": entries, "unk_id": ids.get("<unk>")}
    roles = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return Tokenizer(definition, {role: name for role, name in roles.items() if name in ids}, where=str(where))
