"""SentencePiece's precompiled character map, checked before the engine follows its pointers.

Layout: the size of the trie in bytes (32 bits), the trie as 32-bit units of a double array (Darts), then the
replacement strings, each ended by a NUL. A unit leads from its own place p to p XOR offset XOR byte; a leaf holds the
place of a replacement. The engine does not check any of these, and ends the process on a wrong one.
"""

from __future__ import annotations

import base64
import binascii

import numpy as np

from zhixing.core.errors import BadInput

LEAF = 1 << 31


def check_charsmap(charsmap: bytes) -> None:
    """Makes sure that every pointer of a character map stays inside it.

    Raises:
        BadInput: The map is broken.
    """
    broken = BadInput("the normaliser's character map is broken: the file is corrupt")
    size = int.from_bytes(charsmap[:4], "little")
    if len(charsmap) < 4 or size % 4 or size == 0 or size > len(charsmap) - 4:
        raise broken
    replacements = charsmap[4 + size :]
    try:
        replacements.decode("utf-8")
    except UnicodeDecodeError as error:
        raise broken from error
    units = np.frombuffer(charsmap, "<u4", size // 4, 4).astype(np.int64)
    places = np.arange(len(units))
    is_leaf = units & LEAF != 0
    offset = (units >> 10) << ((units & (1 << 9)) >> 6)
    # Leaves have no children; the rest must lead into the array for every byte that may follow.
    children = (places ^ offset)[~is_leaf]
    if is_leaf[0] or ((children | 0xFF) >= len(units)).any():
        raise broken
    ends_word = (units & 0x100 != 0) & ~is_leaf
    if not is_leaf[(places ^ offset)[ends_word]].all():
        raise broken
    starts = (units & (LEAF - 1))[is_leaf]
    if (starts >= len(replacements)).any():
        raise broken
    content = np.frombuffer(replacements, np.uint8)
    if ((content[starts] & 0xC0) == 0x80).any():
        raise broken


def check_packed(packed: object) -> None:
    """Checks a character map as tokenizer.json holds it, in base64.

    Raises:
        BadInput: The map is broken.
    """
    try:
        content = base64.b64decode(packed if isinstance(packed, str) else "", validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput("the normaliser's character map is not base64: the file is corrupt") from error
    check_charsmap(content)
