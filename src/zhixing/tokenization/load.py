"""Opening a tokenizer from whatever it was published as.

Here: finding out which format a path holds, and reading its files within bounds. The formats themselves are in
`vocabulary_files` and `sentencepiece`.
"""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.files import os_fault
from zhixing.tokenization.definition import Definition, around_text, check_definition, guess_roles
from zhixing.tokenization.sentencepiece import read_model, to_definition
from zhixing.tokenization.template_files import named_templates, published, read_templates
from zhixing.tokenization.tokenizer import CONFIG_FILE, TOKENIZER_FILE, Tokenizer
from zhixing.tokenization.vocabulary_files import bert_definition, gpt2_definition

MAX_BYTES = 256_000_000
"""No tokenizer file is larger, unpacked; the largest published ones have some 40 MB."""

VOCABULARIES = ("vocab.json", "encoder.json")
MERGES = ("merges.txt", "vocab.bpe")
FORMATS = "tokenizer.json; vocab.json + merges.txt (encoder.json + vocab.bpe); vocab.txt; a SentencePiece .model"


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Opens a tokenizer from a model folder, or from a file in any known format.

    A folder is searched for tokenizer.json first, then the older formats. Files may be packed with gzip. A
    tokenizer_config.json in the same folder gives the roles of the special tokens.

    Raises:
        MissingResource: There is nothing at this path.
        BadInput: It is not a tokenizer, or a broken one.
    """
    path = Path(path)
    if not path.exists():
        raise MissingResource("no such file or folder", where=str(path), remedy="check the path")
    folder = path if path.is_dir() else path.parent
    file = _find(path) if path.is_dir() else path
    config = _read_config(folder)
    tokenizer = _load_file(path, folder, file, config)
    if config is None and (templates := read_templates(folder, _read_text)):
        tokenizer.config["chat_template"] = published(templates)
    return tokenizer


def _load_file(path: Path, folder: Path, file: Path, config: dict[str, Any] | None) -> Tokenizer:
    name = file.name.removesuffix(".gz")
    if name in VOCABULARIES or name in MERGES:
        return _load_gpt2(folder, file, config)
    if name.endswith(".json"):
        definition = check_definition(_read_json(file), str(file))
        notes: list[str] = []
        tokenizer = Tokenizer(_with_late_tokens(definition, config, notes), config, where=str(file))
        tokenizer.notes.extend(notes)
        return tokenizer
    if name.endswith(".txt"):
        definition, assumed = bert_definition(_read_text(file), config or {}, str(file))
        return _with_roles(definition, config, file, assumed)
    if name.endswith((".model", ".spm")):
        return _load_sentencepiece(file, config)
    raise BadInput(f"{file.name!r} is not a tokenizer file", where=str(path), remedy=f"known: {FORMATS}")


def _candidates(folder: Path, *names: str) -> Path | None:
    for name in names:
        for candidate in (folder / name, folder / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    return None


def _find(folder: Path) -> Path:
    if found := _candidates(folder, TOKENIZER_FILE):
        return found
    if _candidates(folder, *VOCABULARIES) and _candidates(folder, *MERGES):
        found = _candidates(folder, *VOCABULARIES)
    found = found or _candidates(folder, "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt")
    models = sorted([*folder.glob("*.model"), *folder.glob("*.spm")])
    if found is None and len(models) == 1:
        found = models[0]
    if found is None:
        raise BadInput("this folder holds no tokenizer", where=str(folder), remedy=f"looked for: {FORMATS}")
    return found


def _read_bytes(path: Path) -> bytes:
    """Reads a file, unpacking gzip, within the bound."""
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as packed:
                content = packed.read(MAX_BYTES + 1)
        else:
            if path.stat().st_size > MAX_BYTES:
                raise _too_large(path)
            content = path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadInput(f"broken gzip: {error}", where=str(path)) from error
    except OSError as error:
        raise os_fault(error, path, "reading") from error
    if len(content) > MAX_BYTES:
        raise _too_large(path)
    if not content:
        raise BadInput("the file is empty", where=str(path))
    return content


def _too_large(path: Path) -> BadInput:
    return BadInput(f"more than {MAX_BYTES // 1_000_000} MB: no tokenizer file is so large", where=str(path))


def _read_text(path: Path) -> str:
    try:
        return _read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"not UTF-8 text (byte {error.start})", where=str(path)) from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise BadInput(f"not valid JSON: {error.msg}", where=f"{path}:{error.lineno}") from error
    except RecursionError as error:
        raise BadInput("nested beyond all bounds", where=str(path)) from error


def _read_config(folder: Path) -> dict[str, Any] | None:
    path = folder / CONFIG_FILE
    if not path.exists():
        return None
    config = _read_json(path)
    if not isinstance(config, dict):
        raise BadInput("not a JSON object", where=str(path))
    if templates := read_templates(folder, _read_text):
        config["chat_template"] = published({**_listed_templates(config, path), **templates})
    return config


def _listed_templates(config: dict[str, Any], path: Path) -> dict[str, str]:
    listed = config.get("chat_template")
    return {} if listed is None else named_templates(listed, str(path))


def _with_late_tokens(definition: Definition, config: dict[str, Any] | None, notes: list[str]) -> Definition:
    """Adds the tokens that only tokenizer_config.json lists, as transformers does, when they follow the vocabulary."""
    listed = (config or {}).get("added_tokens_decoder")
    if not isinstance(listed, dict):
        return definition
    vocabulary = definition["model"]["vocab"]
    pieces = {piece for piece, _ in vocabulary} if isinstance(vocabulary, list) else set(vocabulary)
    pieces |= {token["content"] for token in definition["added_tokens"]}
    added = list(definition["added_tokens"])
    for index, token in sorted((int(key), token) for key, token in listed.items() if str(key).isdigit()):
        if isinstance(token, dict) and isinstance(token.get("content"), str) and token["content"] not in pieces:
            if index != len(pieces):
                notes.append(f"the token {token['content']!r} of {CONFIG_FILE} claims id {index} and was left out")
                continue
            flags = {key: bool(token.get(key)) for key in ("single_word", "lstrip", "rstrip", "normalized", "special")}
            added.append({"id": index, "content": token["content"], **flags})
            pieces.add(token["content"])
    return {**definition, "added_tokens": added}


def _with_roles(
    definition: Definition, config: dict[str, Any] | None, file: Path, notes: list[str], **roles: str
) -> Tokenizer:
    """Builds a tokenizer of an older format: the configuration's roles win over the format's own."""
    if not roles:
        special = [token["content"] for token in definition["added_tokens"]]
        roles = guess_roles(dict.fromkeys(special, 0), special)
    given = {key: value for key, value in (config or {}).items() if value is not None}
    tokenizer = Tokenizer(definition, {**roles, **given}, where=str(file))
    tokenizer.notes.extend(notes)
    return tokenizer


def _load_gpt2(folder: Path, file: Path, config: dict[str, Any] | None) -> Tokenizer:
    is_vocabulary = file.name.removesuffix(".gz") in VOCABULARIES
    other = _candidates(folder, *(MERGES if is_vocabulary else VOCABULARIES))
    if other is None:
        wanted = " or ".join(MERGES if is_vocabulary else VOCABULARIES)
        raise MissingResource(f"{file.name} needs {wanted} beside it", where=str(folder))
    vocabulary, merges = (file, other) if is_vocabulary else (other, file)
    definition = gpt2_definition(_read_json(vocabulary), _read_text(merges), config or {}, str(vocabulary), str(merges))
    assumed: list[str] = []
    definition = _with_late_tokens(check_definition(definition), config, assumed)
    assumed += [] if config else ["no tokenizer_config.json: GPT-2's rules for cutting words were assumed"]
    return _with_roles(definition, config, vocabulary, assumed)


def _load_sentencepiece(file: Path, config: dict[str, Any] | None) -> Tokenizer:
    content = _read_bytes(file)
    if content[:200].isascii() and b" 0\n" in content[:200]:
        raise BadInput(
            "a tiktoken vocabulary, which does not say how words are cut",
            where=str(file),
            remedy="give the tokenizer.json of the same model",
        )
    try:
        model = read_model(content)
        definition = to_definition(model)
    except BadInput as error:
        raise BadInput(error.cause, where=str(file), remedy=error.remedy) from error
    # The file does not say whether begin and end are added; the configuration beside it may.
    ids = {token["content"]: token["id"] for token in definition["added_tokens"]}
    begin = model.roles.get("bos_token") if (config or {}).get("add_bos_token") is True else None
    end = model.roles.get("eos_token") if (config or {}).get("add_eos_token") is True else None
    definition["post_processor"] = around_text(begin, end, ids)
    return _with_roles(definition, config, file, [], **model.roles)
