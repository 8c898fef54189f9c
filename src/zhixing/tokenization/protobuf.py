"""A small, bounded reader of the protobuf wire format: as much as a SentencePiece model needs, and nothing more.

Every length is checked against what is there before it is used; nothing is executed and nothing is resolved by name.
Format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from zhixing.core.errors import BadInput

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def read_varint(content: memoryview, at: int) -> tuple[int, int]:
    """Reads a variable-length integer; returns it and the place behind it.

    Raises:
        BadInput: It runs past the end, or past 64 bits.
    """
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            raise BadInput("the file ends inside a number: it is cut short or not a protobuf")
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    raise BadInput("a number is longer than 64 bits: not a protobuf")


def read_fields(content: memoryview) -> Iterator[tuple[int, int | float | memoryview]]:
    """Yields the fields of one message in order: (number, value).

    Integers come as unsigned int, 32- and 64-bit fixed fields as float, strings, bytes and messages as memoryview.

    Raises:
        BadInput: The bytes are not a protobuf message, or end early.
    """
    at = 0
    while at < len(content):
        key, at = read_varint(content, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise BadInput("field number 0: not a protobuf")
        if wire == VARINT:
            value, at = read_varint(content, at)
            yield number, value
        elif wire in (FIXED32, FIXED64):
            size, code = (4, "<f") if wire == FIXED32 else (8, "<d")
            if at + size > len(content):
                raise BadInput("the file ends inside a number: it is cut short or not a protobuf")
            yield number, struct.unpack_from(code, content, at)[0]
            at += size
        elif wire == BYTES:
            size, at = read_varint(content, at)
            if size > len(content) - at:
                raise BadInput(f"a field claims {size} bytes where {len(content) - at} are left: cut short or corrupt")
            yield number, content[at : at + size]
            at += size
        else:
            raise BadInput(f"wire type {wire} in field {number}: not a protobuf, or one of a kind not used here")


def signed(value: int) -> int:
    """Reads an unsigned 64-bit value as the signed number that it stands for (int32 -1 is written so)."""
    return value - (1 << 64) if value >= 1 << 63 else value
