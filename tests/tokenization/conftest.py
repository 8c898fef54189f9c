"""A small bilingual corpus and one tokenizer of each kind learned from it, shared by the tests of this package."""

from __future__ import annotations

import random

import pytest

from zhixing.tokenization import Tokenizer, train_tokenizer

ENGLISH = """the quick brown fox jumps over a lazy dog while many people learn how language models turn text into
tokens and back again because every word of a sentence must be spelled by pieces that the training found useful"""
CHINESE = """知行合一 语言模型 学习 文字 训练 数据 我们 你们 世界 中国 天下 大学之道 在明明德 子曰 学而时习之 不亦说乎
有朋自远方来"""

SAMPLES = [
    "Hello world, it's 12345 tokens.",
    "我们用PyTorch训练语言模型，2024年，效果很好！“引号”（括号）",
    "emoji 😀👨‍👩‍👧 and é e\u0301 𠀀",
    "    leading spaces\n\n\ttab and  two  spaces   ",
    "def f(x):\n    return x_1 + 2  # 注释\n",
    "",
    " ",
    "\n",
    "▁ literal ▁mark",
    "quoting <|endoftext|> and <|unk|> and [UNK] and <0x41> and </s>",
    "\x00\x07 control \u200b zero width \ufeff",
]


def make_corpus() -> list[str]:
    rng = random.Random(1)
    words, phrases = ENGLISH.split(), CHINESE.split()
    documents = []
    for _ in range(300):
        english = " ".join(rng.choice(words) for _ in range(30))
        chinese = "，".join(rng.choice(phrases) + rng.choice(phrases) for _ in range(8)) + "。"
        documents.append(f"{english.capitalize()}.\n{chinese}\nIn {rng.randrange(3000)} it's done.\n")
    return documents


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    return make_corpus()


@pytest.fixture(scope="session")
def tokenizers(corpus: list[str]) -> dict[str, Tokenizer]:
    sizes = {"byte-bpe": 700, "unigram": 700, "wordpiece": 500, "character": None, "byte": None}
    return {kind: train_tokenizer(corpus, kind, size).tokenizer for kind, size in sizes.items()}
