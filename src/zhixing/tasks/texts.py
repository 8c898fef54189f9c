"""What writes texts for `translate`, `summarize` and `rewrite`: a chat model by prompt, or a trained encoder-decoder.

A long text is written for part by part: paragraphs and sentences stay whole where they can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from zhixing.checkpoints.encoder_folder import is_encoder
from zhixing.checkpoints.references import resolve
from zhixing.checkpoints.seq2seq_folder import Seq2SeqFolder, is_seq2seq
from zhixing.core.errors import BadInput, MissingResource
from zhixing.generation import Generator, SamplingOptions, options_from_config
from zhixing.generation.opening import open_seq2seq
from zhixing.tasks.fingerprint import model_fingerprint
from zhixing.tasks.parts import parts_of, sentences_of
from zhixing.tasks.prompting import LANGUAGES, Prompt, language_of, load_prompt
from zhixing.tasks.source_writer import InstructedSource
from zhixing.tasks.writer import SIDE_BY_SIDE, ChatWriter, core_options


@dataclass(frozen=True)
class Written:
    """A text that was written for another one.

    Attributes:
        text: The text.
        parts: In how many parts the other one was read.
        cut: Of how many parts the answer was as long as it may be, and so may end early.
    """

    text: str
    parts: int = 1
    cut: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return {"prediction": self.text, "parts": self.parts, "cut": self.cut}

    def __str__(self) -> str:
        return self.text


class TextWriter(Protocol):
    """Writes a text for each part of a text."""

    def identity(self) -> dict[str, Any]:
        """Returns what decides what is written."""

    def cut(self, text: str, small: bool) -> list[str]:
        """Cuts a text into parts that can be read; `small`: into sentences where that is what it was trained on."""

    def write(self, parts: Sequence[str]) -> list[tuple[str, bool]]:
        """Returns what is written for each part, and whether it is as long as it may be."""


class PromptWriter:
    """A chat model that is told what to do.

    Args:
        writer: The model.
        task: Whose prompt is taken.
        values: What stands for the prompt's names besides the text, by language.
        path: A prompt of the user's own.
        max_tokens: Longest answer, where the prompt says none.
        most: Tokens of a part at most; None: as many as fit.
    """

    def __init__(
        self,
        writer: ChatWriter,
        task: str,
        values: Mapping[str, Mapping[str, str]],
        path: str | Path | None = None,
        max_tokens: int = 512,
        most: int | None = None,
    ) -> None:
        self.writer, self.values, self.most = writer, values, most
        self.prompts: dict[str, Prompt] = {language: load_prompt(task, language, path) for language in LANGUAGES}
        self.max_tokens = max(prompt.max_tokens or max_tokens for prompt in self.prompts.values())
        # Unknown names, and prompts that leave no room, are found before work begins.
        empties = [self.prompts[language].messages({**values[language], "text": ""}) for language in LANGUAGES]
        writer.check_room(empties, self.max_tokens)

    def identity(self) -> dict[str, Any]:
        """See `TextWriter`."""
        prompts = {language: prompt.fingerprint() for language, prompt in self.prompts.items()}
        values = {language: dict(values) for language, values in self.values.items()}
        found = {"model": self.writer.fingerprint(), "prompts": prompts, "values": values}
        return {**found, **self.writer.core}

    def messages(self, text: str) -> list[dict[str, Any]]:
        """Returns what the model is told about a text, in the language of the text."""
        language = language_of(text)
        return self.prompts[language].messages({**self.values[language], "text": text})

    def cut(self, text: str, small: bool) -> list[str]:
        """See `TextWriter`."""
        language = language_of(text)
        empty = self.prompts[language].messages({**self.values[language], "text": ""})
        room = self.writer.room(empty, self.max_tokens)
        return parts_of(text, min(room, self.most or room), self.writer.tokenizer)

    def write(self, parts: Sequence[str]) -> list[tuple[str, bool]]:
        """See `TextWriter`."""
        prompts = [self.writer.encode(self.messages(part)) for part in parts]
        answers = self.writer.write(prompts, max_tokens=self.max_tokens)
        return [(answer.text.strip(), answer.finish_reason != "stop") for answer in answers]


class SourceWriter:
    """An encoder-decoder that was trained for the task.

    Args:
        folder: The model.
        options: Fields of `SamplingOptions`, over the model's own.
        core: What the core was told, by the names of its options.
    """

    def __init__(
        self, folder: Seq2SeqFolder, options: Mapping[str, Any], core: Mapping[str, Any] | None = None
    ) -> None:
        if folder.tokenizers is None:
            raise MissingResource("the model has no tokenizer", where=str(folder.path))
        self.folder, self.tokenizers = folder, folder.tokenizers
        known, _ = options_from_config(folder.generation, str(folder.path / "generation_config.json"))
        self.options: SamplingOptions = known.replace(**{"temperature": 0.0, **options})
        self._given, self._core = dict(options), dict(core or {})

    def identity(self) -> dict[str, Any]:
        """See `TextWriter`."""
        found = {"model": model_fingerprint(self.folder.path), "options": self._given}
        return {**found, **self._core}

    def cut(self, text: str, small: bool) -> list[str]:
        """See `TextWriter`."""
        around = len(self.tokenizers.encode_source("")) + 2
        room = max(1, self.folder.model.config.source_context - around)
        pieces = sentences_of(text) if small else [text]
        return [part for piece in pieces for part in parts_of(piece, room, self.tokenizers.source)]

    def write(self, parts: Sequence[str]) -> list[tuple[str, bool]]:
        """See `TextWriter`."""
        generator = Generator(self.folder.model, self.tokenizers.target, encode=self.tokenizers.encode_source)
        order = sorted(range(len(parts)), key=lambda index: len(parts[index]))
        found: dict[int, tuple[str, bool]] = {}
        for start in range(0, len(order), 4 * SIDE_BY_SIDE):
            group = order[start : start + 4 * SIDE_BY_SIDE]
            answers = generator.generate([parts[index] for index in group], self.options)
            for index, answer in zip(group, answers, strict=True):
                if answer.finish_reason == "interrupted":
                    raise KeyboardInterrupt
                found[index] = (answer.text.strip(), answer.finish_reason != "stop")
        return [found[index] for index in range(len(parts))]


def open_text_writer(
    ref: str | Path,
    task: str,
    values: Mapping[str, Mapping[str, str]],
    *,
    prompt: str | Path | None = None,
    max_tokens: int = 512,
    most: int | None = None,
    beams: int | None = None,
    quantize: str | None = None,
    kv_cache: str | None = None,
    instructed: bool = False,
) -> TextWriter:
    """Opens what writes texts, by the kind of the model; see `PromptWriter` for the arguments.

    An encoder-decoder reads the text alone, as it was trained to; where the user says what to do (`instructed`, or a
    prompt), it reads that before it.

    Raises:
        BadInput: The model writes no text, or an option is not for its kind.
    """
    path = resolve(ref)
    if path.is_dir() and is_seq2seq(path):
        core = core_options(quantize, kv_cache)
        if prompt is not None or instructed:
            if beams is not None:
                raise BadInput("beams are for a model that is told nothing", where="--beams", remedy="leave them out")
            source = InstructedSource.opened(path, core)
            return PromptWriter(source, task, values, prompt, max_tokens, most)
        return SourceWriter(open_seq2seq(path, **core), {} if beams is None else {"num_beams": beams}, core)
    if path.is_dir() and is_encoder(path):
        raise BadInput("this is an encoder, which writes no text", where=str(ref), remedy="name a chat model")
    if beams is not None:
        raise BadInput("beams are for encoder-decoders", where="--beams", remedy="leave it out")
    return PromptWriter(ChatWriter.open(path, quantize, kv_cache), task, values, prompt, max_tokens, most)


def write_parts(writer: TextWriter, texts: Sequence[str], small: bool) -> list[Written]:
    """Writes for each text, part by part, and puts the parts together with what stood between them."""
    cut = [writer.cut(text, small) for text in texts]
    wanted = [part for parts in cut for part in parts if part.strip()]
    written = iter(writer.write([part.strip() for part in wanted]))
    results = []
    for parts in cut:
        pieces: list[str] = []
        full = 0
        for part in parts:
            if not part.strip():
                pieces.append(part)
                continue
            text, long = next(written)
            full += long
            front, back = part[: len(part) - len(part.lstrip())], part[len(part.rstrip()) :]
            # Sentences of Chinese stand without a space between; those of what it becomes may need one.
            if pieces and not front and pieces[-1][-1:].isascii() and not pieces[-1][-1:].isspace():
                front = " "
            pieces.append(f"{front}{text}{back}")
        results.append(Written("".join(pieces).strip(), sum(1 for part in parts if part.strip()), full))
    return results
