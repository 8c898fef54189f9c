"""`fill`: what stands in the gap of a text, by a masked language model (Devlin et al. 2019) or a chat model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from zhixing.checkpoints.encoder_folder import is_encoder
from zhixing.checkpoints.references import resolve
from zhixing.checkpoints.seq2seq_folder import is_seq2seq
from zhixing.core.errors import BadInput
from zhixing.data.gaps import GAP, SHOWN
from zhixing.models.ragged import Ragged
from zhixing.tasks.base import TEXT, Row
from zhixing.tasks.encoders import EncoderRunner
from zhixing.tasks.prompting import LANGUAGES, language_of, load_prompt
from zhixing.tasks.source_writer import InstructedSource
from zhixing.tasks.writer import CHAT_MODEL, ChatWriter

_UNDIVIDED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


@dataclass(frozen=True)
class Filling:
    """What stands in the gaps of a text.

    Attributes:
        text: The text with the likeliest filling of each gap.
        gaps: For each gap its likeliest fillings and their probabilities, best first; None where none is known.
        left_out: Tokens of a long text that were not read: those farthest from the gaps.
    """

    text: str
    gaps: tuple[Mapping[str, float | None], ...]
    left_out: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return {"prediction": self.text, "gaps": [dict(gap) for gap in self.gaps], "left_out": self.left_out}

    def __str__(self) -> str:
        return self.text


class Filler(Protocol):
    """Fills gaps."""

    def __call__(self, texts: Sequence[str]) -> list[Filling]:
        """Returns each text with its gaps filled."""

    def identity(self) -> dict[str, Any]:
        """Returns what decides the fillings."""


def _gaps(text: str) -> list[re.Match[str]]:
    found = list(GAP.finditer(text))
    if not found:
        raise BadInput("the text has no gap", remedy="write one as [MASK] or ____")
    return found


class MaskedFiller:
    """A masked language model: one token for each gap.

    Args:
        runner: An encoder with a head for masked words.
        top: Fillings that are shown of each gap.
    """

    def __init__(self, runner: EncoderRunner, top: int = 5) -> None:
        self.runner, self.top = runner, top
        tokenizer = runner.tokenizer
        names = (str(tokenizer.roles.get("mask_token") or ""), "[MASK]", "<mask>")
        known = [(name, token) for name in names if (token := tokenizer.token_id(name)) is not None]
        if not known:
            raise BadInput("the tokenizer has no mask token", where=str(runner.path))
        self.name, self.mask = known[0]
        # A space is the beginning of the word behind it in most, a token like others where characters are tokens, and
        # nothing in WordPiece, which marks what goes on instead.
        self.spaced = tokenizer.kind in ("byte-bpe", "bpe", "unigram")
        self.marked = tokenizer.kind == "wordpiece"

    def identity(self) -> dict[str, Any]:
        """See `Filler`."""
        return {"model": self.runner.fingerprint(), "top": self.top}

    def __call__(self, texts: Sequence[str]) -> list[Filling]:
        """See `Filler`."""
        sequences, places, left_out = [], [], []
        for text in texts:
            tokens, masks = self._encoded(text)
            whole = len(tokens)
            tokens, masks = self._window(tokens, masks)
            left_out.append(whole - len(tokens))
            sequences.append(self.runner.framed(tokens))
            places.append([mask + len(self.runner.frame.front) for mask in masks])
        found: list[Filling | None] = [None] * len(texts)

        def take(group: list[int], scores: Tensor, batch: Ragged) -> None:
            for number, rows in zip(group, batch.split(scores), strict=True):
                best = [self._best(rows[place]) for place in places[number]]
                text = self._joined(texts[number], [piece for _, piece in best])
                found[number] = Filling(text, tuple(gap for gap, _ in best), left_out[number])

        self.runner.forward(sequences, take)
        return [one for one in found if one is not None]

    def _encoded(self, text: str) -> tuple[list[int], list[int]]:
        """Returns the tokens of a text with mask tokens for its gaps, and where those are."""
        encode = self.runner.tokenizer.encode
        pieces, at = [], 0
        for gap in _gaps(text):
            before = text[at : gap.start()]
            pieces.append(before.rstrip(" ") if self.spaced else before)
            at = gap.end()
        pieces.append(text[at:])
        if self.spaced and not any(name in piece for name in self.runner.tokenizer.special_tokens for piece in pieces):
            # As a whole, lest each piece begin like a text of its own.
            tokens = encode(self.name.join(pieces), parse_special=True)
            masks = [place for place, token in enumerate(tokens) if token == self.mask]
            if len(masks) == len(pieces) - 1:
                return tokens, masks
        tokens, masks = encode(pieces[0]), []
        for piece in pieces[1:]:
            masks.append(len(tokens))
            tokens += [self.mask, *encode(piece)]
        return tokens, masks

    def _joined(self, text: str, pieces: Sequence[str]) -> str:
        """Puts pieces into the gaps, each with what it adds to a text: a word may begin with a space, or go on."""
        result, at = "", 0
        for gap, piece in zip(_gaps(text), pieces, strict=True):
            result += text[at : gap.start()]
            word, begins = piece.strip(" "), piece.startswith(" ")
            if self.spaced or (self.marked and not begins):
                result = result.rstrip(" ")
            if begins and result and (self.spaced or _letters(result[-1], word[0])) and not result[-1].isspace():
                result += " "
            result += word
            at = gap.end()
        return result + text[at:]

    def _window(self, tokens: list[int], masks: list[int]) -> tuple[list[int], list[int]]:
        """Returns what is read of a long text: as much as there is room for around the gaps."""
        room = self.runner.room
        if len(tokens) <= room:
            return tokens, masks
        if masks[-1] - masks[0] >= room:
            raise BadInput(f"the gaps are more than {room} tokens apart", remedy="give a part of the text for each")
        begin = max(0, min((masks[0] + masks[-1] - room) // 2, len(tokens) - room))
        return tokens[begin : begin + room], [mask - begin for mask in masks]

    def _best(self, scores: Tensor) -> tuple[dict[str, float | None], str]:
        """Returns the likeliest words with their probabilities, and what the first adds to a text."""
        scores = scores.clone()
        scores[torch.tensor(sorted(self.runner.tokenizer.special_ids), device=scores.device)] = -torch.inf
        values, tokens = scores.softmax(0).topk(min(4 * self.top + 8, len(scores)))
        best: dict[str, float | None] = {}
        first = ""
        for token, value in zip(tokens.tolist(), values.tolist(), strict=True):
            piece = self.runner.tokenizer.token_bytes(token).decode("utf-8", "replace")
            word = piece.strip()
            # A space is no word, nor is half a character, nor one that controls.
            if word.isprintable() and word and "\ufffd" not in word and len(best) < self.top:
                first = first or piece
                best.setdefault(word, round(value, 6))
        if not best:
            raise BadInput("the model gave no word for a gap")
        return best, first


def _letters(before: str, behind: str) -> bool:
    """Tells whether two characters are of words that a space divides: not so in Chinese."""
    return all(one.isalnum() and not _UNDIVIDED.match(one) for one in (before, behind))


class PromptFiller:
    """A chat model: a word for each gap, one gap after the other.

    Args:
        writer: The model.
        prompt: A prompt file.
    """

    def __init__(self, writer: ChatWriter, prompt: str | Path | None = None) -> None:
        self.writer = writer
        self.prompts = {language: load_prompt("fill", language, prompt) for language in LANGUAGES}
        # Unknown names, and prompts that leave no room, are found before work begins.
        empties = [one.messages({"text": ""}) for one in self.prompts.values()]
        writer.check_room(empties, min(one.max_tokens or 12 for one in self.prompts.values()))

    def identity(self) -> dict[str, Any]:
        """See `Filler`."""
        return {"model": self.writer.fingerprint(), "prompts": [one.fingerprint() for one in self.prompts.values()]}

    def __call__(self, texts: Sequence[str]) -> list[Filling]:
        """See `Filler`."""
        return [self._fill(text) for text in texts]

    def _fill(self, text: str) -> Filling:
        prompt = self.prompts[language_of(text)]
        limit = prompt.max_tokens or 12
        gaps: list[dict[str, float | None]] = []
        for number in range(len(_gaps(text))):
            filled = _filled(text, gaps)
            rest = list(GAP.finditer(filled))
            shown = filled[: rest[0].start()] + SHOWN + filled[rest[0].end() :]
            room = self.writer.room(prompt.messages({"text": ""}), limit)
            if len(self.writer.tokenizer.encode(shown)) > room:
                raise BadInput(
                    f"the text is longer than the {room} tokens that the model reads", remedy="give a part of it"
                )
            tokens = self.writer.encode(prompt.messages({"text": shown}))
            answer = self.writer.write([tokens], max_tokens=limit)[0].text
            word = _without_surroundings(answer, filled[: rest[0].start()], filled[rest[0].end() :])
            if not word or GAP.search(word):
                raise BadInput(f"the model gave no word for gap {number + 1}")
            gaps.append({word: None})
        return Filling(_filled(text, gaps), tuple(gaps))


def _without_surroundings(answer: str, before: str, behind: str) -> str:
    """Returns the word of an answer, which may repeat the sentence around the gap."""
    word = answer.strip().strip("\"'“”").strip()
    for part in (before.strip(), before.strip().rpartition(". ")[2]):
        if part and word.lower().startswith(part.lower()) and len(word) > len(part):
            word = word[len(part) :]
            ending = behind.strip()
            if ending.strip(".。 "):
                word = word.removesuffix(ending)
            break
    return word.strip().strip("\"'“”.。")


def _filled(text: str, gaps: Sequence[Mapping[str, float | None]]) -> str:
    """Puts the likeliest filling into each gap, as many as there are."""
    words = iter([next(iter(gap)) for gap in gaps])
    return GAP.sub(lambda gap: next(words, gap[0]), text)


class Fill:
    """The task `fill`.

    Args:
        ref: A masked language model, or a chat model.
        top: Fillings of each gap that a masked model shows.
        prompt: A prompt file for a chat model.
    """

    name = "fill"
    columns = (TEXT,)
    outputs = ("prediction", "gaps", "left_out")

    def __init__(self, ref: str | Path = CHAT_MODEL, top: int = 5, *, prompt: str | Path | None = None) -> None:
        if top < 1:
            raise BadInput(f"at least one filling must be wanted, got {top}", where="--top")
        path = resolve(ref)
        self.filler: Filler
        if path.is_dir() and is_encoder(path):
            if prompt is not None:
                raise BadInput("an encoder takes no prompt", where=str(ref), remedy="leave --prompt out")
            self.filler, self.chunk = MaskedFiller(EncoderRunner.open(path, "masked", "fill in words"), top), 128
        else:
            writer = InstructedSource.opened(path) if path.is_dir() and is_seq2seq(path) else ChatWriter.open(path)
            self.filler, self.chunk = PromptFiller(writer, prompt), 8

    def identity(self) -> dict[str, Any]:
        """See `Task.identity`."""
        return self.filler.identity()

    def run(self, rows: Sequence[Row]) -> list[Filling]:
        """See `Task.run`."""
        return self.filler([row["text"] for row in rows])
