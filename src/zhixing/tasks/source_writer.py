"""An encoder-decoder that follows prompts, as FLAN-T5 does: the instruction is a part of the source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zhixing.checkpoints.seq2seq_folder import Seq2SeqFolder
from zhixing.core.errors import BadInput, MissingResource
from zhixing.generation import Generation, Generator, LogitsProcessor, StoppingRule, options_from_config
from zhixing.generation.opening import open_seq2seq
from zhixing.tasks.fingerprint import model_fingerprint
from zhixing.tasks.writer import LEAST_PART, ChatWriter, side_by_side


class InstructedSource(ChatWriter):
    """An encoder-decoder in the place of a chat model: what a chat model is told is its source.

    Args:
        folder: The model.
        core: What the native core was told.

    Raises:
        MissingResource: It has no tokenizer.
    """

    def __init__(self, folder: Seq2SeqFolder, core: Mapping[str, Any] | None = None) -> None:
        if folder.tokenizers is None:
            raise MissingResource("the model has no tokenizer", where=str(folder.path))
        self.core, self.folder, self.path = dict(core or {}), folder, folder.path
        self.tokenizers, self.tokenizer = folder.tokenizers, folder.tokenizers.source
        known, _ = options_from_config(folder.generation, str(folder.path / "generation_config.json"))
        self.options = known.replace(temperature=0.0)
        self.chats = False

    @classmethod
    def opened(cls, path: Any, core: Mapping[str, Any] | None = None) -> InstructedSource:
        """Opens a folder; see `zhixing.load` for the options of the native core."""
        return cls(open_seq2seq(path, **dict(core or {})), core)

    def fingerprint(self) -> str:
        """Returns the hash of the model's content."""
        return model_fingerprint(self.path)

    @property
    def context(self) -> int:
        """Tokens that a source may have."""
        return self.folder.model.config.source_context

    def encode(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """Returns what would be said to a chat model as a source."""
        return self.tokenizers.encode_source("\n\n".join(str(message["content"]).strip() for message in messages))

    def room(self, empty: Sequence[dict[str, Any]], answer: int) -> int:
        """Returns how many tokens of text fit beside a prompt: the answer has its own place.

        Raises:
            BadInput: Next to none.
        """
        used = len(self.encode(empty))
        room = self.context - used - 2
        if room < LEAST_PART:
            raise BadInput(
                f"the prompt ({used} tokens) leaves no room in the {self.context} tokens of the model's encoder",
                remedy="give a shorter prompt, or use a model with a longer context",
            )
        return room

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        processors: Sequence[LogitsProcessor] = (),
        rules: Sequence[StoppingRule] = (),
        **options: Any,
    ) -> list[Generation]:
        """Writes a target for each source, those of similar length side by side; see `ChatWriter.write`."""
        chosen = self.options.replace(**{"max_tokens": max_tokens, **options})
        generator = Generator(self.folder.model, self.tokenizers.target, processors=processors, rules=rules)
        return side_by_side(generator, prompts, chosen)
