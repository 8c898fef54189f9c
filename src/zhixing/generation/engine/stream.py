"""An answer of the engine as it is written, in the form in which `generate.Stream` gives one."""

from __future__ import annotations

from collections.abc import Iterator

from zhixing.core.errors import BadInput
from zhixing.generation.engine.request import Request
from zhixing.generation.result import Generation


class RequestStream:
    """Iterate over it for pieces of text, which put together are the whole. Ctrl-C ends the answer where it is.

    Args:
        request: The answer.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self._over = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while True:
            try:
                return next(self.request)
            except StopIteration:
                self._over = True
                raise
            except KeyboardInterrupt:  # the request has ended itself: what was held back still comes
                continue
            except BaseException:
                self._over = True
                raise

    def stop(self) -> str:
        """Ends the answer where it is; returns the text that was not taken yet."""
        if self._over:
            return ""
        self.request.abort()
        return "".join(self)

    @property
    def generation(self) -> Generation:
        """The whole answer, once the iteration is over.

        Raises:
            BadInput: It is not over yet.
        """
        if not self._over:
            raise BadInput("the answer is still being written", remedy="iterate over the stream first, or call stop()")
        return self.request.generation()

    def __del__(self) -> None:
        if not self._over:
            self.request.abort()  # nobody will read it
