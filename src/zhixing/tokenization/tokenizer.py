"""The tokenizer: text to token ids and back, and its two files in a model folder.

Training is in `train`, reading of other formats in `load`, showing to people in `view`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from zhixing.core.errors import BadInput
from zhixing.core.files import atomic_write, os_fault
from zhixing.tokenization import definition as definitions
from zhixing.tokenization.decoding import Decoder, StreamDecoder
from zhixing.tokenization.definition import ROLES, Definition
from zhixing.tokenization.readable import readable_piece
from zhixing.tokenization.template_files import named_templates, published
from zhixing.tokenization.utf8 import utf8_size

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"

MOST_TOKENS = 1 << 24
"""Ids stay below this, far above every published vocabulary: a broken file shall not fill the memory."""

KEPT_CONFIG = (
    "chat_template",
    "model_max_length",
    "padding_side",
    "truncation_side",
    "model_input_names",
    "additional_special_tokens",
    "extra_special_tokens",
)
"""The keys of a tokenizer_config.json, beside the roles, that are kept and written back. What changes the ids or the
text (a class name, add_bos_token, clean-up) is left out: tokenizer.json alone says it."""


class Tokenizer:
    """Turns text into token ids and back.

    Text is data: what looks like a special token inside it is encoded as ordinary characters unless asked otherwise.

    Args:
        definition: The content of a tokenizer.json.
        config: What a tokenizer_config.json says: the roles of special tokens, the chat template. Without it the
            roles are taken from the names that published tokenizers use.
        where: The file it came from, for messages.

    Raises:
        BadInput: The definition is broken.
    """

    def __init__(
        self, definition: Definition, config: Mapping[str, Any] | None = None, *, where: str | None = None
    ) -> None:
        self._definition = definitions.check_definition(definition, where)
        self._backend = definitions.build_backend(self._definition, where)
        self._vocabulary: dict[str, int] = definitions.vocabulary_of(self._definition, self._backend)
        if not self._vocabulary:
            raise BadInput("the tokenizer has no tokens at all", where=where)
        if max(self._vocabulary.values()) >= MOST_TOKENS:
            raise BadInput(
                f"a token has the id {max(self._vocabulary.values())}: the vocabulary is broken", where=where
            )
        self._pieces: list[str | None] = [None] * (max(self._vocabulary.values()) + 1)
        for piece, index in self._vocabulary.items():
            self._pieces[index] = piece
        self.kind = definitions.kind_of(self._definition)
        special = definitions.special_tokens(self._definition)
        self.special_tokens: dict[str, int] = {
            name: self._vocabulary[name] for name in special if name in self._vocabulary
        }
        self._special_ids = frozenset(self.special_tokens.values())
        self._set_config(config)
        self._decoder = Decoder(self._definition, self._backend, self._pieces)
        # Whether special tokens are read in a text is a switch of the library's object and not of the call.
        self._switch = threading.Lock()
        variant = definitions.without_special_pieces(self._definition)
        self._plain = self._backend if variant is None else definitions.build_backend(variant, where)
        unknown = self._definition["model"].get("unk_token")
        self._closed_alphabet = (
            frozenset(self._definition["model"]["vocab"]) if self.kind == "character" and unknown is None else None
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer, (self._definition, {**self.config, **self.roles})

    def _set_config(self, config: Mapping[str, Any] | None) -> None:
        self.notes: list[str] = []
        if config is None:
            self.roles = definitions.guess_roles(self._vocabulary, list(self.special_tokens))
            self.config: dict[str, Any] = {}
            return
        self.config = {key: config[key] for key in KEPT_CONFIG if config.get(key) is not None}
        self.roles = {}
        for role in ROLES:
            token = config.get(role)
            name = token.get("content") if isinstance(token, Mapping) else token
            if not isinstance(name, str):
                continue
            if name in self._vocabulary:
                self.roles[role] = name
            else:
                self.notes.append(f"{role} {name!r} is not in the vocabulary and was left out")

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Opens a tokenizer from a model folder or a file of any known format (see `zhixing.tokenization.load`).

        Raises:
            MissingResource: There is nothing at this path.
            BadInput: It is not a tokenizer, or a broken one.
        """
        from zhixing.tokenization.load import load_tokenizer

        return load_tokenizer(path)

    def save(self, folder: str | Path, config: Mapping[str, Any] | None = None) -> None:
        """Writes tokenizer.json and tokenizer_config.json, which transformers' AutoTokenizer opens with the same ids.

        Args:
            folder: Made if it is missing.
            config: More keys for tokenizer_config.json, such as `model_max_length` or `chat_template`.

        Raises:
            MissingResource: The folder cannot be written.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise os_fault(error, folder, "saving the tokenizer") from error
        atomic_write(folder / TOKENIZER_FILE, json.dumps(self._definition, ensure_ascii=False, indent=2) + "\n")
        content = {
            # The generic class: it takes everything from tokenizer.json, whatever the model beside it is.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **self.roles,
            **self.config,
            **(config or {}),
        }
        if content.get("chat_template") is not None:
            content["chat_template"] = published(named_templates(content["chat_template"]))
        atomic_write(folder / CONFIG_FILE, json.dumps(content, ensure_ascii=False, indent=2) + "\n")

    @property
    def definition(self) -> Definition:
        """The content of tokenizer.json. Not to be changed."""
        return self._definition

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of the definition in canonical form: two tokenizers with the same one give the same ids."""
        return definitions.fingerprint(self._definition)

    @property
    def vocab_size(self) -> int:
        """The number of ids, special tokens included: one more than the highest id."""
        return len(self._pieces)

    @property
    def vocabulary(self) -> Mapping[str, int]:
        """Every token's raw spelling and its id. For people, see `piece`."""
        return self._vocabulary

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids of the special tokens."""
        return self._special_ids

    def _role(self, *roles: str) -> int | None:
        return next((self._vocabulary[self.roles[role]] for role in roles if role in self.roles), None)

    @property
    def end_of_text_id(self) -> int | None:
        """The token that ends a document (eos; a BERT-like tokenizer's separator), or None."""
        return self._role("eos_token", "sep_token")

    @property
    def begin_id(self) -> int | None:
        """The token that begins a document (bos; a BERT-like tokenizer's class token), or None."""
        return self._role("bos_token", "cls_token")

    @property
    def pad_id(self) -> int | None:
        """The token that fills up short sequences, or None."""
        return self._role("pad_token")

    @property
    def unknown_id(self) -> int | None:
        """The token for what the vocabulary cannot spell, or None when there is none or none is needed."""
        return self._role("unk_token")

    @property
    def chat_template(self) -> str | None:
        """The jinja2 chat template of the model folder (of several, the default one), or None."""
        return (self.chat_templates or {}).get("default")

    @property
    def chat_templates(self) -> dict[str, str] | None:
        """All chat templates of the model folder by name, or None when there is none.

        Raises:
            BadInput: What the configuration calls a chat template is none.
        """
        template = self.config.get("chat_template")
        return None if template is None else named_templates(template, CONFIG_FILE)

    def token_id(self, token: str) -> int | None:
        """Returns the id of a token by its raw spelling, or None."""
        return self._vocabulary.get(token)

    def encode(self, text: str, *, special: bool = False, parse_special: bool = False) -> list[int]:
        """Returns the token ids of a text.

        Args:
            text: Any text.
            special: Also adds what the tokenizer's own template puts around a text (begin of text and the like).
            parse_special: Reads "<|endoftext|>" and its kind inside the text as the special tokens they look like.
                Only for text that the program itself wrote, such as a rendered chat template.

        Raises:
            BadInput: The tokenizer has no token for a character and none for unknown ones.
        """
        self._check([text])
        parsing = bool(parse_special and self.special_tokens)
        backend = self._backend if parsing else self._plain
        try:
            # The batch call is the one that does without the offsets, which nobody here needs.
            with self._switch:
                self._backend.encode_special_tokens = not parsing
                return list(backend.encode_batch_fast([text], add_special_tokens=special)[0].ids)
        except Exception as error:
            raise self._fault([text], error) from error

    def encode_with_offsets(self, text: str, *, parse_special: bool = False) -> tuple[list[int], list[tuple[int, int]]]:
        """Returns the token ids of a text, and where in it each of them begins and ends, in characters.

        Args:
            text: Any text.
            parse_special: As for `encode`.

        Raises:
            BadInput: The tokenizer has no token for a character and none for unknown ones.
        """
        self._check([text])
        parsing = bool(parse_special and self.special_tokens)
        backend = self._backend if parsing else self._plain
        try:
            with self._switch:
                self._backend.encode_special_tokens = not parsing
                encoding = backend.encode(text, add_special_tokens=False)
        except Exception as error:
            raise self._fault([text], error) from error
        return list(encoding.ids), list(encoding.offsets)

    def framed(self, *, pair: bool) -> tuple[list[int], list[int | None], list[int]]:
        """Encodes some short text, or two, as the tokenizer's own template frames it.

        Returns:
            The ids; which text each is of (0 or 1, None for what the template adds); and the segment of each.
        """
        sample = next((piece for index in range(self.vocab_size) if (piece := self._sample(index))), "a")
        with self._switch:
            self._backend.encode_special_tokens = True
            encoding = self._backend.encode(sample, sample if pair else None, add_special_tokens=True)
        return list(encoding.ids), list(encoding.sequence_ids), list(encoding.type_ids)

    def _sample(self, index: int) -> str:
        """Returns a token's text where it is ordinary text that becomes tokens again, else ""."""
        if index in self._special_ids or not (text := self.decode([index])).isalnum():
            return ""
        return text if self.encode(text) else ""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of many texts, on all cores; special tokens are neither added nor read. The fast path.

        Raises:
            BadInput: The tokenizer has no token for a character and none for unknown ones.
        """
        self._check(texts)
        try:
            with self._switch:
                self._backend.encode_special_tokens = True
                encodings = self._plain.encode_batch_fast(texts, add_special_tokens=False)
        except Exception as error:
            raise self._fault(texts, error) from error
        return [encoding.ids for encoding in encodings]

    @staticmethod
    def _fault(texts: Sequence[str], error: Exception) -> Exception:
        """Says what the library, which has no error classes of its own, could not encode."""
        if not all(isinstance(text, str) for text in texts):
            return error
        for text in texts:
            utf8_size(text)
        return BadInput(f"the tokenizer cannot encode this text: {error}")

    def _check(self, texts: Sequence[str]) -> None:
        if self._closed_alphabet is None:
            return
        for text in texts:
            missing = set(text) - self._closed_alphabet
            if missing:
                some = ", ".join(repr(character) for character in sorted(missing)[:8])
                raise BadInput(
                    f"this character tokenizer has no token for {some}{' and more' if len(missing) > 8 else ''}",
                    remedy=f"leave such characters out (it knows {len(self._closed_alphabet)}), "
                    "or train the tokenizer with an unknown token or on text that has them",
                )

    def decode(self, tokens: Iterable[int], *, skip_special: bool = False) -> str:
        """Returns the text of token ids; special tokens appear by name unless they are skipped.

        Raises:
            BadInput: An id is outside the vocabulary.
        """
        return self._decoder.decode(tokens, self._special_ids if skip_special else ())

    def stream_decoder(self, *, skip_special: bool = False) -> StreamDecoder:
        """Returns an object whose `push(id)` gives the text so far certain, never a cut character; then `finish()`."""
        return StreamDecoder(self._decoder, self._special_ids if skip_special else ())

    def token_bytes(self, token: int) -> bytes:
        """Returns the UTF-8 bytes that a token adds to a text when it is not the first."""
        return self._decoder.token_bytes(int(token))

    def piece(self, token: int) -> str:
        """Returns one token in readable form: a space as ␣, a line end as ⏎, bytes of a cut character as <E4><BD>."""
        token = int(token)
        if not 0 <= token < len(self._pieces):
            raise BadInput(f"token id {token} is outside the vocabulary of {len(self._pieces)}")
        piece = self._pieces[token]
        if piece is None:
            return "<unused>"
        if token in self._special_ids:
            return piece
        return readable_piece(piece, self._definition)

    def __len__(self) -> int:
        return self.vocab_size

    def __repr__(self) -> str:
        return f"Tokenizer({self.kind}, {self.vocab_size} tokens, {self.fingerprint[:12]})"
