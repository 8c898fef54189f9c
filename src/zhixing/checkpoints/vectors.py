"""A folder of word vectors, and one way to open vectors whatever they are kept in.

The folder: `config.json` with `model_type: "zhixing-vectors"`, `words.json`, and `model.safetensors` with `vectors`,
`counts` and, for fastText, `subwords`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zhixing.checkpoints.tensors import read_tensors, write_tensors
from zhixing.core.errors import BadInput, MissingResource, missing_extra
from zhixing.core.files import atomic_folder, read_json
from zhixing.families.base import ConfigReader
from zhixing.models.vectors import Subwords, WordVectors
from zhixing.models.vectors_files import read_vectors, write_vectors

MODEL_TYPE = "zhixing-vectors"
FASTTEXT_MAGIC = (793712314).to_bytes(4, "little")
"""The first bytes of a model of Facebook's fastText."""

PICKLES = (".model", ".kv", ".npy", ".pkl", ".pickle")


def save_vectors(vectors: WordVectors, path: Path) -> list[str]:
    """Writes vectors: to a text file (.txt, .vec, also with .gz), a binary file (.bin), else to a folder.

    Returns:
        What the reader should know, in sentences.

    Raises:
        MissingResource: It cannot be written.
    """
    name = path.name.removesuffix(".gz")
    notes = []
    if name.endswith((".txt", ".vec", ".bin")):
        if changed := write_vectors(vectors, path, binary=name.endswith(".bin")):
            notes.append(f"{changed} words hold white space or backslashes, which are written as \\uXXXX")
        if vectors.subwords is not None:
            notes.append("the vectors of fastText's character n-grams are not in this format: unseen words have none")
        return notes
    tensors = {"vectors": torch.from_numpy(vectors.vectors)}
    values: dict[str, Any] = {"model_type": MODEL_TYPE, "size": vectors.size, "word_count": len(vectors)}
    if vectors.counts is not None:
        tensors["counts"] = torch.from_numpy(vectors.counts)
    if vectors.subwords is not None:
        tensors["subwords"] = torch.from_numpy(vectors.subwords.vectors)
        values["subwords"] = {
            "shortest": vectors.subwords.shortest,
            "longest": vectors.subwords.longest,
            "buckets": len(vectors.subwords.vectors),
        }
    values["facts"] = vectors.facts
    with atomic_folder(path) as folder:
        (folder / "config.json").write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / "words.json").write_text(json.dumps(list(vectors.words), ensure_ascii=False), encoding="utf-8")
        write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
    return notes


def open_vectors(path: Path) -> WordVectors:
    """Opens vectors: our folder, word2vec's text or binary format, GloVe's text, or a model of Facebook's fastText.

    Raises:
        MissingResource: There is nothing at this path, or gensim is missing, which reads fastText's own format.
        BadInput: It holds no vectors, or broken ones.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise MissingResource("no such file or folder of word vectors", where=str(path))
    if path.suffix in PICKLES:
        raise BadInput(
            f"{path.suffix} files hold pickled objects, which can run code; they are never loaded",
            where=str(path),
            remedy="save the vectors in word2vec's format (gensim: model.wv.save_word2vec_format(file)) and load that",
        )
    with path.open("rb") as file:
        if file.read(4) == FASTTEXT_MAGIC:
            return _read_fasttext(path)
    return read_vectors(path)


def _read_folder(folder: Path) -> WordVectors:
    file = folder / "config.json"
    if not file.is_file():
        raise MissingResource("no word vectors here (no config.json)", where=str(folder))
    values = read_json(file)
    if not isinstance(values, dict) or values.get("model_type") != MODEL_TYPE:
        kind = values.get("model_type") if isinstance(values, dict) else None
        raise BadInput(f"this folder holds no word vectors, but a model of type {kind!r}", where=str(folder))
    reader = ConfigReader(values, str(file))
    size, count = reader.size("size"), reader.size("word_count")
    part, facts = reader.take("subwords"), reader.mapping("facts")
    reader.finish()
    tensors = read_tensors(folder / "model.safetensors")
    words = read_json(folder / "words.json")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise BadInput("not a list of words", where=str(folder / "words.json"))
    expected: dict[str, tuple[int, ...]] = {"vectors": (count, size)}
    subwords = None
    if part is not None:
        inner = ConfigReader(part if isinstance(part, dict) else {}, f"{file}: subwords")
        shortest, longest, buckets = inner.size("shortest"), inner.size("longest", most=64), inner.size("buckets")
        inner.finish()
        expected["subwords"] = (buckets, size)
    if "counts" in tensors:
        expected["counts"] = (count,)
    if len(words) != count or {name: tuple(tensor.shape) for name, tensor in tensors.items()} != expected:
        raise BadInput("the files of this folder do not go together", where=str(folder), remedy="copy it again")
    for name, tensor in tensors.items():
        if tensor.dtype != (torch.int64 if name == "counts" else torch.float32):
            raise BadInput(f"the tensor {name!r} has the type {tensor.dtype}", where=str(folder / "model.safetensors"))
    if part is not None:
        subwords = Subwords(shortest, longest, tensors["subwords"].numpy())
    counts = tensors["counts"].numpy() if "counts" in tensors else None
    return WordVectors(words, tensors["vectors"].numpy(), counts, subwords, dict(facts))


def _read_fasttext(path: Path) -> WordVectors:
    try:
        from gensim.models.fasttext import load_facebook_vectors
    except ImportError as error:
        raise missing_extra("gensim", "vectors", "reading a model of Facebook's fastText") from error
    try:
        read = load_facebook_vectors(str(path))
    except Exception as error:  # the library has no error class of its own
        raise BadInput(f"not a whole model of fastText ({error})", where=str(path), remedy="copy it again") from error
    return from_gensim(read, {"from": path.name})


def from_gensim(read: Any, facts: dict[str, object]) -> WordVectors:
    """Takes the words and vectors out of gensim's `KeyedVectors`."""
    words = list(read.index_to_key)
    counts = np.array([read.get_vecattr(word, "count") for word in words], dtype=np.int64)
    subwords = None
    if getattr(read, "bucket", 0):
        subwords = Subwords(int(read.min_n), int(read.max_n), np.ascontiguousarray(read.vectors_ngrams, np.float32))
    return WordVectors(words, np.ascontiguousarray(read.vectors, np.float32), counts, subwords, facts)
