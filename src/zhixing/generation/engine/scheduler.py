"""What each step of the model reads: the next token of every answer, and pieces of the prompts that wait.

Answers come first, one token each; what is left of a step goes to prompts, in pieces, so that a long prompt holds
nobody up (Agrawal et al. 2023). When blocks run out, the request that came last gives its own up and is read again
later. Nothing of the model is here, and no thread: the engine's thread alone calls this.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from zhixing.generation.engine.blocks import Blocks
from zhixing.generation.engine.request import Request


class Piece(NamedTuple):
    """What a step reads of one request.

    Attributes:
        request: Whose tokens.
        size: How many, from the first that was not read.
        last: Whether that is all there is, so that what follows is wanted.
    """

    request: Request
    size: int
    last: bool


class Scheduler:
    """Requests that wait and requests that run.

    Args:
        blocks: The cache's blocks.
        step_tokens: Most tokens of a step.
        most: Most requests that run together; at most `step_tokens`.

    Attributes:
        prompt_tokens: Tokens of all requests that were let in, each counted once.
        found: Those of them that were found in blocks.
    """

    def __init__(self, blocks: Blocks, step_tokens: int, most: int) -> None:
        self.blocks, self.step_tokens, self.most = blocks, step_tokens, min(most, step_tokens)
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []  # the oldest first
        self.prompt_tokens = self.found = 0
        self.preempted: list[Request] = []
        """Those that lost their blocks in the last step: whatever a worker keeps of them is void."""

    def add(self, request: Request) -> None:
        """Puts a request at the end of the queue."""
        self.waiting.append(request)

    def remove(self, request: Request) -> None:
        """Forgets a request, wherever it is; its blocks are free at once."""
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        self._release(request)

    def step(self) -> list[Piece]:
        """Decides what the next step reads; the blocks for it are there."""
        self.preempted = []
        left = self.step_tokens
        pieces: list[Piece] = []
        for request in [*(r for r in self.running if r.pending == 1), *(r for r in self.running if r.pending > 1)]:
            # Others may have taken its blocks in this very step.
            count = min(left, request.pending)
            if request in self.running and count and self._provide(request, count):
                pieces.append(Piece(request, count, count == request.pending))
                left -= count
        pieces = [piece for piece in pieces if piece.request in self.running]
        while left and self.waiting and len(self.running) < self.most and not self.preempted:
            request = self.waiting[0]
            if not self._admit(request):
                break
            count = min(left, request.pending)
            if not self._provide(request, count):
                break
            pieces.append(Piece(request, count, count == request.pending))
            left -= count
        return pieces

    def ahead(self, pieces: Sequence[Piece], most: int) -> int:
        """Returns how many steps can follow one another like this one, of these pieces, and gets the blocks for them.

        More than one only where nobody waits and every request that runs reads the one token that it has; none gives
        its blocks up for them.
        """
        if self.waiting or len(pieces) < len(self.running) or any(piece.size > 1 or not piece.last for piece in pieces):
            return 1
        requests = [piece.request for piece in pieces]
        while most > 1 and sum(self._lacking(request, most) for request in requests) > self.blocks.free:
            most -= 1
        for request in requests:
            self._provide(request, most)
        return most

    def done(self, piece: Piece) -> None:
        """Notes that a piece was read; blocks that are full now can serve others."""
        request, size = piece.request, self.blocks.size
        before, request.read = request.read, request.read + piece.size
        for place in range(before // size, request.read // size):
            self.blocks.fill(request.blocks, place, request.tokens[place * size : (place + 1) * size])

    def _admit(self, request: Request) -> bool:
        """Lets the first of the queue in, when there is room for all that it has to read."""
        request.blocks = self.blocks.match(request.tokens)
        if self.blocks.needed(len(request.tokens)) - len(request.blocks) > self.blocks.free:
            self._release(request)
            return False
        request.read = len(request.blocks) * self.blocks.size
        if not request.preempted:
            request.reused = request.read
            self.prompt_tokens += len(request.tokens)
            self.found += request.read
        self.waiting.popleft()
        self.running.append(request)
        return True

    def _provide(self, request: Request, count: int) -> bool:
        """Gets the blocks for so many more tokens; False when the request had to give its own up."""
        while self._lacking(request, count):
            block = self.blocks.take()
            if block is not None:
                request.blocks.append(block)
                continue
            victim = self.running[-1]
            self._preempt(victim)
            if victim is request:
                return False
        return True

    def _lacking(self, request: Request, count: int) -> int:
        """Returns how many blocks more tokens need beyond those that the request has."""
        return max(0, self.blocks.needed(request.read + count) - len(request.blocks))

    def _preempt(self, request: Request) -> None:
        self.running.remove(request)
        self._release(request)
        request.preempted += 1
        self.preempted.append(request)
        self.waiting.appendleft(request)

    def _release(self, request: Request) -> None:
        self.blocks.release(request.blocks)
        request.blocks, request.read = [], 0
