"""Running one step of the scheduler: here on the C++ core, in one call; with PyTorch in `torch_worker`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from zhixing.generation.checks import not_numbers
from zhixing.generation.engine.choice import CoreChoice, core_choice
from zhixing.generation.engine.request import Request, Wishes
from zhixing.generation.engine.scheduler import Piece
from zhixing.generation.sequence import Sequence as Answer
from zhixing.native.choosing import Setting, choose_tokens
from zhixing.native.decoder import NativeDecoder
from zhixing.native.runtime import PAGE, Pages
from zhixing.native.steps import Reading, Steps

if TYPE_CHECKING:
    from zhixing.generation.engine.request import Choice
    from zhixing.native.packing import Floats
    from zhixing.tokenization.tokenizer import Tokenizer

MOST_STEPS, MOST_SECONDS = 16, 0.02
"""Steps that are run in one go at most, and how long they may take."""


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

    def longest(self, requests: Sequence[Request]) -> int:
        """Returns how many steps, each of one token of every request, can be run in one go."""

    def run(self, pieces: Sequence[Piece], steps: int, done: Callable[[Piece], None]) -> int:
        """Reads the pieces, and gives those that are whole their next token. An error there ends only that request.

        Args:
            pieces: What the scheduler gave.
            steps: How many steps follow one another, each of which reads the token that the one before has given; with
                more than one, all pieces are of one token, and whole.
            done: Told of every piece that was read.

        Returns:
            The steps that were run.
        """

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
        self._seconds = math.inf  # of the last step
        self._alone = False

    def choice(self, answer: Answer, wishes: Wishes) -> Choice:
        """See `Worker`."""
        if not wishes and (choice := core_choice(answer.limits.options, self._tokenizer)) is not None:
            return choice
        import torch

        from zhixing.generation.engine.sampled import Sampled

        return Sampled(answer, wishes, self._tokenizer, self._decoder.config.vocab_size, torch.device("cpu"))

    def longest(self, requests: Sequence[Request]) -> int:
        """See `Worker`: several where the core chooses, and nothing looks at a token before the next one.

        No more than an answer has tokens already, so that its beginning is not held up, and never for so long that it
        would not seem to flow, or that others would wait to be let in.
        """
        most = min(MOST_STEPS, int(MOST_SECONDS / self._seconds))
        for request in requests:
            answer = request.answer
            if not _chosen_by_core(request) or answer.limits.rules:
                return 1
            written = len(answer.progress.tokens)
            most = min(most, written, answer.longest_answer - written)
        return max(1, most)

    def run(self, pieces: Sequence[Piece], steps: int, done: Callable[[Piece], None]) -> int:
        """See `Worker`."""
        reading, whole = _reading(pieces), [piece.request for piece in pieces if piece.last]
        if not all(map(_chosen_by_core, whole)):
            rows = self._steps.run(reading)
            for piece in pieces:
                done(piece)
            self._choose(whole, rows)
            return 1
        settings = [[_setting(request) for request in whole] for _ in range(steps)]
        ends = {request.answer.limits.end_tokens for request in whole}
        started = time.perf_counter()
        # Who goes on must not lose random numbers that were drawn for steps that were not run: only where all answers
        # end with the same tokens does the core know that nobody does.
        chosen = self._steps.write(reading, settings, ends.pop() if len(ends) == 1 else ())
        self._seconds = (time.perf_counter() - started) / len(chosen)
        for tokens in chosen:
            for piece in pieces:
                if piece.request.answer.reason is None:
                    done(piece)
            _give(whole, tokens)
        return len(chosen)

    def _choose(self, requests: Sequence[Request], rows: Floats) -> None:
        """Gives every request its next token, where some are chosen on tensors, or some tokens excluded before."""
        alone = [row for row, request in enumerate(requests) if isinstance(request.choice, CoreChoice)]
        for row in alone:
            choice = requests[row].choice
            if isinstance(choice, CoreChoice) and choice.characters is not None:
                choice.characters.mask(rows[row], requests[row].tokens)
        if alone:
            mine = [requests[row] for row in alone]
            own = rows if len(alone) == len(rows) else rows[alone]
            _give(mine, choose_tokens(own, [_setting(request) for request in mine]))
        if others := [row for row in range(len(requests)) if row not in alone]:
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


def _reading(pieces: Sequence[Piece]) -> Reading:
    """Returns the step that reads some pieces."""
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
    return Reading(ids, sequences, positions, [piece.request.blocks for piece in pieces], wanted)


def _chosen_by_core(request: Request) -> bool:
    """Tells whether a request's tokens are chosen from its logits as they are."""
    return isinstance(request.choice, CoreChoice) and request.choice.characters is None


def _setting(request: Request) -> Setting:
    """Returns how the core chooses the next token, with a random number of the answer's own."""
    assert isinstance(request.choice, CoreChoice)
    setting = request.choice.setting
    return setting._replace(point=request.answer.random.random()) if setting.temperature else setting


def _give(requests: Sequence[Request], tokens: Sequence[int]) -> None:
    """Gives every request that has not ended its token."""
    for request, token in zip(requests, tokens, strict=True):
        if request.answer.reason is not None:
            continue
        try:
            if token < 0:
                raise not_numbers()
            request.give(token)
        except Exception as error:  # noqa: BLE001  its user learns of it
            request.fail(error)
