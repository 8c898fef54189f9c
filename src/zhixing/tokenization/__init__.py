"""Tokenizers: learned from text, loaded from every common format, applied, and shown.

Conversations become text and tokens in `chat_template` and `chat_format`. Reading of data files is not here
(`zhixing.data`).
"""

from zhixing.tokenization.decoding import StreamDecoder
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.tokenization.train import Trained, TrainingFacts, train_tokenizer

__all__ = ["StreamDecoder", "Tokenizer", "Trained", "TrainingFacts", "train_tokenizer"]
