"""Vocabularies that were published as plain lists: GPT-2's vocab.json with merges.txt, and BERT's vocab.txt."""

from __future__ import annotations

from typing import Any

from zhixing.core.errors import BadInput
from zhixing.tokenization.decoding import ALPHABET
from zhixing.tokenization.definition import KNOWN_ROLES, Definition
from zhixing.tokenization.patterns import QWEN_PATTERN

MAX_TOKENS = 4_000_000

BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def _added(names: list[str], vocabulary: dict[str, int]) -> list[dict[str, Any]]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return [{"id": vocabulary[name], "content": name, **flags} for name in sorted(names, key=vocabulary.__getitem__)]


def _definition(model: dict[str, Any], added: list[dict[str, Any]], **steps: Any) -> Definition:
    empty = {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None}
    head = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added}
    return {**head, **empty, **steps, "model": model}


def gpt2_definition(
    vocabulary: object, merges: str, config: dict[str, Any], vocabulary_file: str, merges_file: str
) -> Definition:
    """Builds the definition of a byte-level BPE from its two files.

    Args:
        vocabulary: The content of vocab.json (encoder.json): token spelling to id.
        merges: The content of merges.txt (vocab.bpe): one merge a line, the most useful first.
        config: The tokenizer_config.json beside them, or {}; a Qwen class name chooses Qwen's pattern.
        vocabulary_file: For messages.
        merges_file: For messages.

    Raises:
        BadInput: The files do not belong together, or are something else.
    """
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise BadInput("not a vocabulary: a JSON object of token spellings and ids is expected", where=vocabulary_file)
    if not all(isinstance(index, int) and 0 <= index < MAX_TOKENS for index in vocabulary.values()):
        raise BadInput("a token's id is not a whole number, or beyond all bounds", where=vocabulary_file)
    if len(set(vocabulary.values())) < len(vocabulary):
        raise BadInput("two tokens have the same id", where=vocabulary_file)
    missing = [byte for character, byte in ALPHABET.items() if character not in vocabulary]
    if missing:
        raise BadInput(
            f"not a byte-level vocabulary: {len(missing)} of the 256 bytes have no token",
            where=vocabulary_file,
            remedy="a vocabulary of another kind needs its tokenizer.json",
        )
    pairs = _read_merges(merges, vocabulary, merges_file)
    made = {left + right for left, right in pairs}
    known = {name for names in KNOWN_ROLES.values() for name in names}
    special = [name for name in vocabulary if name in known and name not in made]
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocabulary,
        "merges": pairs,
    }
    plain = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    qwen = str(config.get("tokenizer_class", "")).startswith("Qwen")
    pattern = {"type": "Split", "pattern": {"Regex": QWEN_PATTERN}, "behavior": "Isolated", "invert": False}
    bytes_only = {**plain, "use_regex": False}
    return _definition(
        model,
        _added(special, vocabulary),
        normalizer={"type": "NFC"} if qwen else None,
        pre_tokenizer={"type": "Sequence", "pretokenizers": [pattern, bytes_only]}
        if qwen
        else {**plain, "use_regex": True},
        decoder={**plain, "use_regex": True},
    )


def _read_merges(merges: str, vocabulary: dict[str, int], where: str) -> list[list[str]]:
    pairs = []
    for number, line in enumerate(merges.split("\n"), start=1):
        line = line.rstrip("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise BadInput(
                f"a merge is two tokens with a space between them, not {line[:60]!r}", where=f"{where}:{number}"
            )
        for token in (*pair, "".join(pair)):
            if token not in vocabulary:
                raise BadInput(
                    f"the merge {line[:60]!r} needs the token {token[:60]!r}, which is not in the vocabulary",
                    where=f"{where}:{number}",
                    remedy="the two files must be of the same tokenizer",
                )
        pairs.append(pair)
    if not pairs:
        raise BadInput("it holds no merges", where=where)
    return pairs


def bert_definition(text: str, config: dict[str, Any], where: str) -> tuple[Definition, list[str]]:
    """Builds the definition of a WordPiece tokenizer from BERT's vocab.txt: one token a line, the id is the line.

    Args:
        text: The content of the file.
        config: The tokenizer_config.json beside it, or {}; it may say do_lower_case, strip_accents and
            tokenize_chinese_chars.
        where: For messages.

    Returns:
        The definition, and what was assumed because no configuration says it.

    Raises:
        BadInput: It is not such a vocabulary.
    """
    # Only "\n" ends a line here: real vocabularies have tokens such as U+2028, which splitlines would cut at.
    lines = [line.rstrip("\r") for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    vocabulary: dict[str, int] = {}
    for number, token in enumerate(lines, start=1):
        if token in vocabulary:
            raise BadInput(
                f"the token {token[:60]!r} is there twice (first on line {vocabulary[token] + 1})",
                where=f"{where}:{number}",
            )
        vocabulary[token] = number - 1
    if "[UNK]" not in vocabulary:
        raise BadInput("not a BERT vocabulary: it has no line [UNK]", where=where)
    if len(vocabulary) > MAX_TOKENS:
        raise BadInput(f"{len(vocabulary)} tokens: no real vocabulary has so many", where=where)
    special = [name for name in BERT_SPECIAL if name in vocabulary]
    notes = []
    lower = config.get("do_lower_case")
    if not isinstance(lower, bool):
        lower = not any("A" <= character <= "Z" for token in vocabulary if token[:1] not in "[<" for character in token)
        notes.append(
            f"no tokenizer_config.json says do_lower_case: taken as {str(lower).lower()}, since the vocabulary has "
            f"{'no' if lower else ''} capital letters".replace("  ", " ")
        )
    chinese = config.get("tokenize_chinese_chars")
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": chinese if isinstance(chinese, bool) else True,
        "strip_accents": config.get("strip_accents"),
        "lowercase": lower,
    }
    model = {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": vocabulary,
    }
    template = None
    if "[CLS]" in vocabulary and "[SEP]" in vocabulary:
        template = {
            "type": "TemplateProcessing",
            "single": [_special("[CLS]", 0), _sequence("A", 0), _special("[SEP]", 0)],
            "pair": [
                _special("[CLS]", 0),
                _sequence("A", 0),
                _special("[SEP]", 0),
                _sequence("B", 1),
                _special("[SEP]", 1),
            ],
            "special_tokens": {
                name: {"id": name, "ids": [vocabulary[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")
            },
        }
    definition = _definition(
        model,
        _added(special, vocabulary),
        normalizer=normalizer,
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=template,
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
    )
    return definition, notes


def _special(name: str, type_id: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": name, "type_id": type_id}}


def _sequence(name: str, type_id: int) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": type_id}}
