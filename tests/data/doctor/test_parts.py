"""The doctor's parts by themselves: texts, personal data, likeness, broken JSON, turns."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhixing.core.errors import BadInput
from zhixing.data.doctor import examine, write_mended
from zhixing.data.doctor import likeness as likeness_of_texts
from zhixing.data.doctor.encodings import decode_line
from zhixing.data.doctor.likeness import Likeness, stretches
from zhixing.data.doctor.personal import mask
from zhixing.data.doctor.raw import mend_json
from zhixing.data.doctor.strings import mend_text
from zhixing.data.doctor.turns import mend_turns, role_of


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Co", "Cn"]), max_size=60))
def test_text_that_was_never_wrong_stays(text):
    """Text of any language stays as it is, unless it happens to read as mojibake all through."""
    flaws = []
    mended = mend_text(text, flaws, "x")
    assert mended == text or flaws


@given(st.text("äöüßéèêàçñøåœ漢字中文ひらがなПриветاللغة€–“”", min_size=1, max_size=20))
def test_mojibake_is_turned_back(text):
    try:
        garbled = text.encode("utf-8").decode("cp1252")
    except UnicodeDecodeError:
        return  # some bytes have no character there
    flaws = []
    assert mend_text(f"so {garbled}.", flaws, "x") == f"so {text}."
    assert [flaw.kind for flaw in flaws] == ["mojibake"]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mail bob.lee+x@uni-bonn.de now", "mail <email> now"),
        ("call 13812345678 or +1 (212) 664-7665", "call <phone> or <phone>"),
        ("(415) 664-7665; 415.664.7665", "<phone>; <phone>"),
        ("SSN 078-05-1120", "SSN <id>"),
        ("5105 1051 0510 5100 and 371449635398431", "<card> and <card>"),
        ("server 8.8.8.8 and 203.0.114.9", "server 8.8.8.8 and <ip>"),
        ("AKIAIOSFODNN7EXAMPLE", "<secret>"),
        ("1+1=2, 2024-05-06, 10:30, 3.14159, v2.10.3", "1+1=2, 2024-05-06, 10:30, 3.14159, v2.10.3"),
        ("号码110105194912310021是假的", "号码110105194912310021是假的"),  # wrong check digit
        ("4242424242424241", "4242424242424241"),  # wrong sum
        ("ISBN 978-3-16-148410-0, 1000000000000", "ISBN 978-3-16-148410-0, 1000000000000"),
        ("me@localhost, @handle, a@b, a@d.co", "me@localhost, @handle, a@b, a@d.co"),
        ("1 - 2 = -16666579378, +960397912423686", "1 - 2 = -16666579378, +960397912423686"),
    ],
)
def test_personal_data(text, masked):
    flaws = []
    assert mask(text, flaws, "x") == masked
    assert len(flaws) == masked.count("<")


def test_texts_from_one_template_are_not_all_compared_with_each_other(monkeypatch: pytest.MonkeyPatch):
    calls = 0
    common = likeness_of_texts._common

    def counted(*arguments):
        nonlocal calls
        calls += 1
        return common(*arguments)

    monkeypatch.setattr(likeness_of_texts, "_common", counted)
    likeness, rng = Likeness(), random.Random(0)
    template = "Write a short and friendly answer to the customer with the number "
    texts = [template + "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=40)) for _ in range(600)]
    assert all(likeness.near([text], number) is None for number, text in enumerate(texts))
    assert calls <= likeness_of_texts.MOST * len(texts)
    assert calls > 10 * len(texts), "the template is what they share"
    assert likeness.near([texts[-1] + "!?"], 600) == (599, 1.0)


def test_likeness_is_the_share_of_common_stretches():
    """Estimated against the exact share of five-character stretches, for texts that share more and more."""
    chooser = random.Random(0)
    words = ["".join(chooser.choices("abcdefgh", k=5)) for _ in range(400)]
    for share in (0.97, 0.93, 0.89):
        other = [word if chooser.random() < share + 0.02 else "xxxxx" for word in words]
        one, two = " ".join(words), " ".join(other)
        a, b = (set(stretches(text).tolist()) for text in (one, two))
        exact = len(a & b) / len(a | b)
        likeness = Likeness(alike=0.1)
        assert likeness.near([one], 0) is None
        found = likeness.near([two], 1)
        assert found is not None
        assert found[1] == pytest.approx(exact, abs=0.08)


def test_few_near_duplicates_are_missed():
    chooser = random.Random(1)
    likeness = Likeness()
    found = 0
    for number in range(100):
        words = ["".join(chooser.choices("abcdefghij", k=6)) for _ in range(30)]
        assert likeness.near([" ".join(words)], 2 * number) is None
        words[chooser.randrange(30)] = "another"
        found += likeness.near([" ".join(words)], 2 * number + 1) is not None
    assert found >= 95


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ('{"a": 1},', {"a": 1}),
        ('{"a": [1, 2,],}', {"a": [1, 2]}),
        ('[{"a": 1},', {"a": 1}),
        ('{"a": 1}]', {"a": 1}),
        ("{'a': None, 'b': True}", {"a": None, "b": True}),
        ('{"a": ', None),
        ("hello", None),
        ("__import__('os').getcwd()", None),
        ('{"a": "b\tc", "d": null}', {"a": "b\tc", "d": None}),
        ("{" * 5000, None),
    ],
)
def test_broken_json(line, value):
    assert mend_json(line)[0] == value


def test_encodings_of_lines():
    assert decode_line("今天的天气很好，我们在家".encode("gb18030")) == ("今天的天气很好，我们在家", "gb18030")
    assert decode_line("café – naïve".encode("cp1252")) == ("café – naïve", "cp1252")
    assert decode_line("今天".encode()) == ("今天", "utf-8")


ROLES = st.sampled_from(["system", "user", "assistant", "tool"])
TURNS = st.lists(st.fixed_dictionaries({"role": ROLES, "content": st.sampled_from(["", " ", "a", "b"])}), max_size=7)


@settings(max_examples=300)
@given(TURNS, st.booleans())
def test_mended_turns_are_in_order(turns, open_end):
    flaws = []
    mended = mend_turns(turns, flaws, "messages", open_end=open_end)
    if mended != turns:
        assert flaws or not any(role_of(turn) != "system" for turn in turns)
    again = []
    assert mend_turns(mended, again, "messages", open_end=open_end) == mended
    assert not again
    spoken = [role_of(turn) for turn in mended if role_of(turn) != "system"]
    if spoken:
        assert spoken[0] == "user"
        assert spoken[-1] == ("user" if open_end else "assistant")
        assert all(turn["content"].strip() for turn in mended if role_of(turn) != "system")


def test_a_mended_copy_overwrites_nothing(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a"}\n{"text": "a"}\n')
    with examine(path) as diagnosis:
        with pytest.raises(BadInput, match="it is there already"):
            write_mended(diagnosis, path)
        with pytest.raises(BadInput, match="it is there already"):
            write_mended(diagnosis, tmp_path)
    assert path.read_text().count("\n") == 2
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with examine(empty) as diagnosis, pytest.raises(BadInput, match="no file was understood"):
        write_mended(diagnosis, tmp_path / "y.jsonl")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.binary(max_size=30) | st.sampled_from([b'{"text": "a"}', b'{"text": "b"}', b"", b"[", b"{}"]), max_size=8
    )
)
def test_whatever_a_file_holds_nothing_breaks(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("any")
    path = folder / "x.jsonl"
    path.write_bytes(b"\n".join(parts))
    with examine(path) as diagnosis:
        if diagnosis.plans[0].found is not None and diagnosis.plans[0].rows:
            write_mended(diagnosis, folder / "y.jsonl")
