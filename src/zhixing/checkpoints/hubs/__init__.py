"""Where models come from (the Hugging Face hub, ModelScope, wheels of a package index), and what is kept of them.

Each hub is a file with two functions: `cached` (what is there already, without any network) and `fetch` (downloads
what is missing, verified). What they share is in `store` (what was pulled), `web` (requests), `transfer` (one file,
resumable, verified) and `needed` (which files a model needs).
"""

from __future__ import annotations

from collections.abc import Mapping

from zhixing.checkpoints.hubs import huggingface, modelscope, pypi
from zhixing.checkpoints.hubs.store import Record, cache_folder

SCHEMES = ("hf:", "ms:", "pypi:")
"""How a reference to a hub begins."""


def find_cached(reference: str) -> Record | None:
    """Returns the model of a hub's reference if it is in the cache, whole and verified; uses no network.

    Raises:
        BadInput: The reference is not of the form of its hub.
    """
    if reference.startswith("hf:"):
        return huggingface.cached(reference)
    if reference.startswith("ms:"):
        return modelscope.cached(reference)
    return pypi.cached([reference])


def fetch_reference(reference: str, patience: float | None = None, sha256: Mapping[str, str] | None = None) -> Record:
    """Downloads what is missing of a hub's model.

    Args:
        reference: Begins with one of `SCHEMES`.
        patience: Seconds after which a hub that does not answer counts as out of reach; the hub's own when not given.
        sha256: Checksums of files in a wheel, by their path in the model folder.

    Raises:
        MissingResource: It cannot be had.
        BadInput: The reference is malformed, there is nothing to load, or a checksum is wrong.
    """
    if reference.startswith("hf:"):
        return huggingface.fetch(reference, patience or huggingface.PATIENCE)
    if reference.startswith("ms:"):
        return modelscope.fetch(reference, patience or modelscope.PATIENCE)
    return pypi.fetch(reference, sha256)


def remove(record: Record) -> int:
    """Removes a model from the cache and returns the bytes that this frees.

    What the hub's cache holds for other revisions of the same repository too stays.
    """
    return huggingface.remove(record) if record.reference.startswith("hf:") else record.discard(cache_folder())
