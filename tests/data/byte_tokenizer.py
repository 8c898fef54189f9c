"""The trivial tokenizers of these tests: one token a byte, and one a word, which sees where a text is cut."""

from __future__ import annotations

import re


class ByteTokenizer:
    def __init__(self, vocab_size: int = 257, end_of_text_id: int | None = 256, fingerprint: str = "bytes") -> None:
        self.vocab_size, self.end_of_text_id, self.fingerprint = vocab_size, end_of_text_id, fingerprint
        self.calls = 0

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        self.calls += 1
        return [list(text.encode("utf-8")) for text in texts]

    def decode(self, tokens: list[int]) -> str:
        return bytes(token for token in tokens if token < 256).decode("utf-8")


class WordTokenizer(ByteTokenizer):
    """Splits as GPT-2 does (blanks go with the word after them, trailing ones together), and hashes each piece."""

    pieces = re.compile(r" ?\w+| ?[^\s\w]+|\s+(?!\S)|\s+")

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        self.calls += 1
        return [[hash(piece) % self.vocab_size for piece in self.pieces.findall(text)] for text in texts]
