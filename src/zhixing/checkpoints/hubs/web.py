"""Requests to a hub: one small client with limits, whose every failure is a `WebFault` that says what happened.

http and https only; a token is never sent on to another host. Proxies and certificates are taken from where Python and
other tools take them (`HTTPS_PROXY`, `SSL_CERT_FILE`, `REQUESTS_CA_BUNDLE`).
"""

from __future__ import annotations

import functools
import http.client
import importlib.util
import json
import os
import queue
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from zhixing.version import __version__

T = TypeVar("T")

TIMEOUT = 20.0
"""Seconds without a single byte after which a connection counts as broken."""
MOST_JSON = 64 << 20
"""Bytes of an answer that is read whole."""
PRIVATE = ("authorization", "cookie")
"""Headers that only the host sees that was asked first."""


class WebFault(Exception):
    """A request that failed.

    Args:
        reason: What happened, in words for the user.
        status: The HTTP status, or None when there was no answer.
        headers: Those of the answer, with names in lower case.
    """

    def __init__(self, reason: str, status: int | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.headers = dict(headers or {})

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed a little later."""
        return self.status is None or self.status in (408, 425, 429) or self.status >= 500

    @property
    def wait(self) -> float | None:
        """Seconds that the server asks to wait, if it does."""
        text = self.headers.get("retry-after", "")
        return float(text) if text.isdigit() else None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https, without what is meant for the first host only."""

    max_redirections = 8

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Builds the next request; None lets the redirect itself be the answer."""
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if new.scheme not in ("http", "https") or (old.scheme == "https" and new.scheme == "http"):
            raise urllib.error.URLError(f"redirected from {old.scheme} to {new.scheme}")
        request = urllib.request.Request(newurl, headers=dict(req.headers), method=req.get_method())
        if (old.scheme, old.netloc) != (new.scheme, new.netloc):
            if req.get_method() == "HEAD":  # what the hub says of the file is in this answer, not in the store's
                return None
            for name in list(request.headers):
                if name.lower() in PRIVATE:
                    del request.headers[name]
        return request


@functools.cache
def _opener() -> urllib.request.OpenerDirector:
    """Returns an opener that knows http and https and nothing else (no files, no ftp)."""
    context = ssl.create_default_context()
    if bundle := os.environ.get("REQUESTS_CA_BUNDLE"):
        context.load_verify_locations(bundle)
    elif not context.get_ca_certs() and importlib.util.find_spec("certifi"):  # Python without the system's certificates
        import certifi

        context.load_verify_locations(certifi.where())
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=context),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def request(url: str, headers: Mapping[str, str], method: str = "GET") -> http.client.HTTPResponse:
    """Sends a request and returns the answer, whose body is still to be read and which is to be closed.

    Raises:
        WebFault: No connection, or a status that is not a success.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise WebFault(f"not a web address: {url!r}")
    every = {"User-Agent": f"zhixing/{__version__}", "Accept-Encoding": "identity", **headers}
    try:
        answer: http.client.HTTPResponse | None = _opener().open(
            urllib.request.Request(url, headers=every, method=method), timeout=TIMEOUT
        )
    except urllib.error.HTTPError as error:
        lower = {name.lower(): value for name, value in error.headers.items()}
        said = lower.get("x-error-message", "")
        error.close()
        detail = f": {said[:200]}" if said else ""
        raise WebFault(f"the server answers {error.code} {error.reason}{detail}", error.code, lower) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise no_connection(url, error) from error
    if answer is None:
        raise WebFault(f"not a web address: {url!r}")
    return answer


def head(url: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Returns the headers of what is at an address, or of its redirect to another host; names in lower case.

    Raises:
        WebFault: No connection, or neither a success nor such a redirect.
    """
    try:
        with request(url, headers, method="HEAD") as answer:
            return {name.lower(): value for name, value in answer.headers.items()}
    except WebFault as fault:
        if fault.status in (301, 302, 303, 307, 308):
            return fault.headers
        raise


def no_connection(url: str, error: Exception) -> WebFault:
    """Says why a connection failed or broke."""
    host = urllib.parse.urlsplit(url).netloc.rpartition("@")[2]
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        cause = "no answer in time"
    elif isinstance(cause, OSError) and cause.strerror:
        cause = cause.strerror
    return WebFault(f"no connection to {host} ({str(cause) or type(cause).__name__})")


def get_json(url: str, headers: Mapping[str, str], patience: float) -> Any:
    """Returns a JSON answer.

    Args:
        url: The address.
        headers: Sent along.
        patience: Seconds for all of it: name look-up, every address of the host, redirects and body.

    Raises:
        WebFault: No connection, no success, or not JSON.
    """

    def ask() -> Any:
        with request(url, headers) as answer:
            try:
                body = answer.read(MOST_JSON + 1)
            except (OSError, http.client.HTTPException) as error:
                raise no_connection(url, error) from error
        if len(body) > MOST_JSON:
            raise WebFault("the answer is too long")
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise WebFault("the answer is not JSON") from error

    host = urllib.parse.urlsplit(url).netloc.rpartition("@")[2]
    return within(patience, ask, lambda: WebFault(f"no connection to {host} (no answer within {patience:.0f} s)"))


def within(seconds: float, work: Callable[[], T], late: Callable[[], Exception]) -> T:
    """Returns what `work` returns, or raises `late()` when it takes longer.

    A time limit of a socket holds for each address and each packet; this one holds for the whole. The work that came
    too late is left to end by itself.
    """
    results: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((True, work()))
        except BaseException as error:  # noqa: BLE001 (carried over into the thread that waits)
            results.put((False, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        fine, value = results.get(timeout=seconds)
    except queue.Empty:
        raise late() from None
    if fine:
        return value  # type: ignore[no-any-return]
    raise value
