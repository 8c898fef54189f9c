"""Which documents are held out for validation: decided by their content alone. Where they are written is `build`'s."""

from __future__ import annotations

import hashlib


def document_hash(text: str | bytes) -> bytes:
    """Returns the 16-byte BLAKE2b hash of a document's text (as UTF-8)."""
    return hashlib.blake2b(text.encode("utf-8") if isinstance(text, str) else text, digest_size=16).digest()


def split_key(hash_of_document: bytes | str, seed: int = 0) -> float:
    """Returns the document's place in [0, 1), uniform over documents and independent for each seed."""
    data = hash_of_document.encode("utf-8") if isinstance(hash_of_document, str) else hash_of_document
    digest = hashlib.blake2b(data, digest_size=8, salt=(seed % (1 << 64)).to_bytes(8, "little")).digest()
    # 53 bits, so that the quotient is exact and never rounds up to 1.
    return (int.from_bytes(digest, "little") >> 11) / (1 << 53)


def held_out(hash_of_document: bytes | str, fraction: float, seed: int = 0) -> bool:
    """Tells whether a document belongs to validation.

    The answer depends on nothing but the document, the fraction and the seed: adding, removing or reordering other
    documents moves nothing, equal documents land on the same side, and a larger fraction only adds to a smaller one.

    Args:
        hash_of_document: What `document_hash` returns, or any string that stands for the content.
        fraction: The share to hold out, from 0 (nothing) to 1 (everything).
        seed: Chooses among the possible splits.
    """
    return split_key(hash_of_document, seed) < fraction
