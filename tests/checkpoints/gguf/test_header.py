"""The header reader: what a well-made file says, and that every lie is refused in words."""

import struct

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.constants import GGML_QUANT_SIZES

from tests.checkpoints.gguf.support import llama_metadata, llama_tensors, raw_file, tensor_entry, text, write
from zhixing.checkpoints.gguf import header
from zhixing.checkpoints.gguf.header import Texts, is_gguf, open_gguf
from zhixing.core.errors import BadInput, MissingResource
from zhixing.models.block_kinds import KINDS


def opened(tmp_path, content):
    path = tmp_path / "file.gguf"
    path.write_bytes(content)
    return open_gguf(path)


def test_every_known_kind_has_the_sizes_of_ggml():
    for number, (values, size) in GGML_QUANT_SIZES.items():
        if number.name != "Q8_1":  # the package still has the older layout; no file holds it
            assert (KINDS[int(number)].name, KINDS[int(number)].values, KINDS[int(number)].bytes) == (
                number.name, values, size,
            )  # fmt: skip


def test_a_file_of_the_gguf_package_is_read_as_that_package_reads_it(tmp_path):
    path = write(tmp_path / "model.gguf", llama_metadata(), llama_tensors(), {"blk.0.attn_q.weight": "Q8_0"})
    file, reference = open_gguf(path), GGUFReader(path)
    assert file.version == 3
    for key, entry in reference.fields.items():
        if key.startswith("GGUF."):
            continue
        expected, found = entry.contents(), file.metadata[key]
        found = list(found) if isinstance(found, Texts) else found
        assert (found.tolist() if isinstance(found, np.ndarray) else found) == expected, key
    assert list(file.tensors) == [tensor.name for tensor in reference.tensors]
    for tensor in reference.tensors:
        info = file.tensors[tensor.name]
        assert info.shape == tuple(reversed(tensor.shape.tolist()))
        assert info.kind.number == tensor.tensor_type
        assert file.bytes_of(info).tobytes() == tensor.data.tobytes()


def test_texts_are_decoded_one_by_one_or_together(tmp_path):
    words = ["", "a", "知行", "é" * 5]
    texts = opened(tmp_path, raw_file([("list", words)])).metadata["list"]
    assert len(texts) == 4
    assert list(texts) == texts.decoded() == words
    assert texts[2] == "知行"
    assert texts[1:3] == words[1:3]


def test_every_scalar_type_is_read(tmp_path):
    values = {
        0: ("<B", 200), 1: ("<b", -3), 2: ("<H", 60000), 3: ("<h", -300), 4: ("<I", 1 << 31), 5: ("<i", -7),
        6: ("<f", 0.5), 7: ("<?", True), 10: ("<Q", 1 << 40), 11: ("<q", -(1 << 40)), 12: ("<d", 0.1),
    }  # fmt: skip
    entries = [
        (f"k{kind}", struct.pack("<I", kind) + struct.pack(form, value)) for kind, (form, value) in values.items()
    ]
    metadata = opened(tmp_path, raw_file(entries)).metadata
    assert {key: metadata[key] for key in metadata} == {f"k{kind}": value for kind, (_, value) in values.items()}


def test_nested_lists_are_read_to_a_depth(tmp_path):
    inner = struct.pack("<IQ", 4, 2) + struct.pack("<II", 5, 6)
    nested = struct.pack("<IIQ", 9, 9, 1) + inner
    assert [list(part) for part in opened(tmp_path, raw_file([("n", nested)])).metadata["n"]] == [[5, 6]]
    deep = struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 1000 + inner
    with pytest.raises(BadInput, match="beyond all bounds"):
        opened(tmp_path, raw_file([("n", deep)]))


GOOD = [("general.architecture", "llama"), ("list", ["ab", "cd"]), ("number", 7)]
ONE = [("t", np.zeros((2, 32), np.float32))]
HUGE = 1 << 62


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a GGUF file"),
        (b"GG", "not a GGUF file"),
        (b"ggml" + b"\0" * 40, "old format ggml"),
        (raw_file(GOOD, ONE, version=1), "version 1"),
        (raw_file(GOOD, ONE, version=99), "version 99"),
        (b"GGUF" + struct.pack(">I", 3) + b"\0" * 40, "big-endian"),
        (b"GGUF\3\0\0\0", "the file ends inside"),
        (raw_file(GOOD, ONE, count=(HUGE, 3)), "claims .* tensors"),
        (raw_file(GOOD, ONE, count=(1, HUGE)), "claims .* metadata entries"),
        (raw_file(GOOD, ONE, count=(1, 4)), "length|ends inside|type|text"),
        (raw_file(GOOD, ONE, count=(2, 3)), "ends inside|shape|dimensions|type|text|name"),
        (raw_file([*GOOD, ("number", 8)], ONE), "'number' occurs twice"),
        (raw_file(GOOD, [*ONE, ("t", np.zeros(4, np.float32))]), "'t' occurs twice"),
        (raw_file([("k", struct.pack("<I", 77) + b"\0" * 8)]), "unknown value type 77"),
        (raw_file([("k", struct.pack("<IIQ", 9, 77, 1) + b"\0" * 8)]), "unknown type 77"),
        (raw_file([("k", struct.pack("<I", 7) + b"\2")]), "neither 0 nor 1"),
        (raw_file([("k", struct.pack("<IIQ", 9, 7, 2) + b"\1\2")]), "neither 0 nor 1"),
        (raw_file([("k", struct.pack("<IQ", 8, HUGE))]), "claims a length"),
        (raw_file([("k", struct.pack("<IQ", 8, 1 << 20))]), "ends inside"),
        (raw_file([(b"\xff\xfe", 1)]), "not UTF-8"),
        (raw_file([("k" * 70000, 1)]), "claims a length of 70000"),
        (raw_file([("k", struct.pack("<IIQ", 9, 4, HUGE))]), "claims .* items"),
        (raw_file([("k", struct.pack("<IIQ", 9, 4, 1 << 20))]), "ends inside"),
        (raw_file([("k", struct.pack("<IIQ", 9, 8, 1 << 20))]), "ends inside"),
        (raw_file([("k", struct.pack("<IIQ", 9, 8, 2) + text("a") + struct.pack("<Q", HUGE))]), "ends inside"),
        (raw_file([("general.alignment", 3)], ONE), "not a power of two"),
        (raw_file([("general.alignment", "x")], ONE), "not a power of two"),
        (raw_file([("general.alignment", 0)], ONE), "not a power of two"),
        (raw_file(GOOD, entries=[tensor_entry("t", (), 0, 0)]), "0 dimensions"),
        (raw_file(GOOD, entries=[tensor_entry("t", (1,) * 5, 0, 0)]), "5 dimensions"),
        (raw_file(GOOD, entries=[tensor_entry("t", (1,), 0, 0, dimensions=1 << 31)]), "dimensions"),
        (raw_file(GOOD, entries=[tensor_entry("t", (0, 32), 0, 0)]), "claims the shape"),
        (raw_file(GOOD, entries=[tensor_entry("t", (HUGE, HUGE), 0, 0)]), "claims the shape"),
        (raw_file(GOOD, entries=[tensor_entry("t", (4, 32), 0, 0)]), "should end at byte"),
        (raw_file(GOOD, entries=[tensor_entry("t", (4, 32), 0, HUGE)]), "should end at byte"),
        (raw_file(GOOD, entries=[tensor_entry("t", (4, 32), 0, 7)]), "multiple of 32"),
        (raw_file(GOOD, entries=[tensor_entry("t", (4, 32), 999, 0)]), "type 999"),
        (raw_file(GOOD, entries=[tensor_entry("t", (4, 33), 8, 0)]), "rows of 33 values"),
        (raw_file(GOOD, entries=[tensor_entry("t" * 300, (4, 32), 0, 0)]), "claims a length of 300"),
        (raw_file(GOOD, [("a", np.zeros(64, np.float32))])[:-8], "should end at byte"),
        (
            raw_file(
                GOOD, [("a", np.zeros(64, np.float32))],
                entries=[tensor_entry("a", (64,), 0, 0), tensor_entry("b", (8,), 0, 32)],
            ),
            "'a' and 'b' overlap",
        ),
    ],
)  # fmt: skip
def test_a_lying_header_is_refused(tmp_path, content, message):
    with pytest.raises(BadInput, match=message) as caught:
        opened(tmp_path, content)
    assert "file.gguf" in str(caught.value)


def test_a_file_truncated_anywhere_is_refused(tmp_path):
    whole = raw_file(GOOD, [("a", np.zeros((2, 32), np.float32)), ("b", np.zeros(8, np.float32))])
    assert len(opened(tmp_path, whole).tensors) == 2
    for length in range(len(whole)):
        with pytest.raises(BadInput):
            opened(tmp_path, whole[:length])


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(MissingResource, match="not there"):
        open_gguf(tmp_path / "none.gguf")
    with pytest.raises(BadInput, match="folder"):
        open_gguf(tmp_path)


def test_a_text_that_is_not_utf8_is_found_when_it_is_read(tmp_path):
    bad = struct.pack("<IIQ", 9, 8, 2) + text("good") + text(b"\xff")
    texts = opened(tmp_path, raw_file([("list", bad)])).metadata["list"]
    assert texts[0] == "good"
    with pytest.raises(BadInput, match="not UTF-8"):
        texts.decoded()


def test_files_are_known_by_name_or_by_their_first_letters(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"nothing")
    (tmp_path / "blob").write_bytes(b"GGUF....")
    (tmp_path / "text").write_bytes(b"hello")
    found = [is_gguf(tmp_path / name) for name in ("a.gguf", "blob", "text", "none", ".")]
    assert found == [True, True, False, False, False]


def test_a_large_vocabulary_is_skipped_quickly(tmp_path):
    path = tmp_path / "file.gguf"
    words = struct.pack("<IIQ", 9, 8, 300_000) + b"".join(text(f"word{index}") for index in range(300_000))
    path.write_bytes(raw_file([("tokens", words)]))
    assert open_gguf(path).metadata["tokens"][299_999] == "word299999"
    assert header.MOST_ITEMS > 300_000
