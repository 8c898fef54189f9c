"""Running one step of the scheduler: here on the C++ core, in one call; with PyTorch in `torch_worker`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from zhixing.generation.checks import not_numbers
from zhixing.generation.engine.choice import CoreChoice, core_choice
from zhixing.generation.engine.request import Request, Wishes
from zhixing.generation.engine.scheduler import Piece
from zhixing.generation.sequence import Sequence as Answer
from zhixing.native.choosing import Setting, choose_tokens
from zhixing.native.decoder import NativeDecoder
from zhixing.native.runtime import PAGE, Pages
from zhixing.native.steps import Steps

if TYPE_CHECKING:
    from zhixing.generation.engine.request import Choice
    from zhixing.native.packing import Floats
    from zhixing.tokenization.tokenizer import Tokenizer


class Worker(Protocol):
    """Runs steps.

    Attributes:
        block: Tokens of a block.
        step_tokens: Most tokens of a step.
        shares: Whether blocks that hold the same can be one.
    """

    block: int
    step_tokens: int
    shares: bool

    def choice(self, answer: Answer, wishes: Wishes) -> Choice:
        """Returns how an answer's tokens will be chosen.

        Raises:
            BadInput: An option cannot be followed.
        """

    def run(self, pieces: Sequence[Piece]) -> Any:
        """Reads the pieces; returns the logits behind those that are whole, in their order, for `choose`."""

    def choose(self, requests: Sequence[Request], rows: Any) -> None:
        """Gives every request its next token. An error ends only the request whose it is."""

    def forget(self, requests: Iterable[Request]) -> None:
        """Lets go of whatever is kept of requests outside of their blocks."""


class NativeWorker:
    """The C++ core: all pieces in one call, keys and values in pages that are the scheduler's blocks.

    Args:
        decoder: The network.
        tokenizer: Its tokenizer, or None.
        blocks: Blocks of the cache.
    """

    block, shares = PAGE, True

    def __init__(self, decoder: NativeDecoder, tokenizer: Tokenizer | None, blocks: int) -> None:
        self._decoder, self._tokenizer = decoder, tokenizer
        self.step_tokens = decoder.runtime.step_tokens
        self._steps = Steps(decoder.runtime, Pages(decoder.runtime, blocks))
        self._alone = False

    def choice(self, answer: Answer, wishes: Wishes) -> Choice:
        """See `Worker`."""
        if not wishes and (choice := core_choice(answer.limits.options, self._tokenizer)) is not None:
            return choice
        import torch

        from zhixing.generation.engine.sampled import Sampled

        return Sampled(answer, wishes, self._tokenizer, self._decoder.config.vocab_size, torch.device("cpu"))

    def run(self, pieces: Sequence[Piece]) -> Floats:
        """See `Worker`; the rows are void after the next step."""
        ids: list[int] = []
        sequences: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        for number, (request, count, last) in enumerate(pieces):
            first = request.read
            if count == 1:
                ids.append(request.tokens[first])
                positions.append(first)
                sequences.append(number)
            else:
                ids += request.tokens[first : first + count]
                positions += range(first, first + count)
                sequences += [number] * count
            if last:
                wanted.append(len(ids) - 1)
        return self._steps.run(ids, sequences, positions, [piece.request.blocks for piece in pieces], wanted)

    def choose(self, requests: Sequence[Request], rows: Floats) -> None:
        """See `Worker`."""
        settings: list[Setting] = []
        others: list[int] = []
        for row, request in enumerate(requests):
            choice = request.choice
            if isinstance(choice, CoreChoice):
                setting, characters = choice
                if characters is not None:
                    characters.mask(rows[row], request.tokens)
                if setting.temperature:
                    setting = setting._replace(point=request.answer.random.random())
                settings.append(setting)
            else:
                others.append(row)
        if not others:
            _give(requests, choose_tokens(rows, settings))
            return
        if settings:
            alone = [row for row in range(len(requests)) if row not in others]
            _give([requests[row] for row in alone], choose_tokens(rows[alone], settings))
        self._choose_on_tensors([requests[row] for row in others], rows[others])

    def _choose_on_tensors(self, requests: Sequence[Request], rows: Floats) -> None:
        import torch

        from zhixing.generation.engine.sampled import choose_sampled

        if not self._alone:
            torch.set_num_threads(1)  # of this thread: PyTorch's others would spin on the core's processors
            self._alone = True
        choose_sampled(requests, torch.from_numpy(rows))

    def forget(self, requests: Iterable[Request]) -> None:
        """See `Worker`. Everything is in blocks."""


def _give(requests: Sequence[Request], tokens: Sequence[int]) -> None:
    for request, token in zip(requests, tokens, strict=True):
        try:
            if token < 0:
                raise not_numbers()
            request.give(token)
        except Exception as error:  # noqa: BLE001  its user learns of it
            request.fail(error)
