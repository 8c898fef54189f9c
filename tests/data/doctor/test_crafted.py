"""Crafted files: every fault is found in its line, every mend is right, good rows stay byte for byte as they are."""

import gzip
import json

import pytest

from tests.data.doctor.cases import ALPACA, CASES, GOOD, LABELLED, LONG, chat, jsonl
from zhixing.core.errors import BadInput
from zhixing.data.doctor import KINDS, Options, examine, write_mended


def put(path, content):
    if not isinstance(content, str | bytes):
        content = json.dumps(content, ensure_ascii=False, indent=1)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def content_of(path):
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")


def found_in(diagnosis):
    kinds = [(finding.kind, finding.line) for _, group in diagnosis.findings.ordered() for finding in group]
    return sorted(kinds, key=lambda pair: (pair[1], list(KINDS).index(pair[0])))


@pytest.mark.parametrize(("name", "content", "findings", "mended"), CASES.values(), ids=CASES)
def test_crafted(tmp_path, name, content, findings, mended):
    path = put(tmp_path / name, content)
    before = path.read_bytes()
    with examine(path) as diagnosis:
        assert found_in(diagnosis) == sorted(findings, key=lambda pair: (pair[1], list(KINDS).index(pair[0])))
        (target,) = write_mended(diagnosis, tmp_path / "mended")
    assert path.read_bytes() == before, "the original stays as it is"
    if mended is None:
        assert target.read_bytes() == before
    elif isinstance(mended, str):
        assert content_of(target) == mended
    else:
        assert json.loads(content_of(target)) == mended
    # What was mended is good: the doctor finds nothing in it that it could mend.
    with examine(target) as again:
        assert all(not KINDS[kind].mend for kind, _ in found_in(again)), found_in(again)


def test_there_are_forty():
    assert len(CASES) >= 40
    shown = {kind for case in CASES.values() for kind, _ in case[2]}
    assert shown >= set(KINDS) - {"unreadable", "shape", "long", "overlap"}, "these have tests of their own"


def test_good_rows_of_an_array_stay_as_they_stand(tmp_path):
    rows = ['{ "text":"one text",\n  "n": 1 }', '{"text": "one text", "n": 1}', '{"n":2,"text":"h\\u00e9"}']
    path = put(tmp_path / "x.json", "[\n" + ",\n".join(rows) + "\n]\n")
    with examine(path) as diagnosis:
        (target,) = write_mended(diagnosis, tmp_path / "y.json")
    assert target.read_text() == "[\n" + rows[0] + ",\n" + rows[2] + "\n]\n"


def test_over_long(tmp_path):
    turns = [text for k in range(20) for text in (f"Question {k}?", f"answer {k}")]
    path = put(tmp_path / "x.jsonl", jsonl(GOOD[0], chat(*turns), chat("Why?", "x" * 500)))
    options = Options(longest=200, measure=len)
    with examine(path, options) as diagnosis:
        assert found_in(diagnosis) == [("long", 2), ("long", 3)]
        assert "keep its first" in diagnosis.findings.kept["long"][0].mend
        (target,) = write_mended(diagnosis, tmp_path / "y.jsonl")
    read = [json.loads(text) for text in target.read_text().splitlines()]
    assert read[0] == GOOD[0]
    kept = read[1]["messages"]
    assert len(read) == 2
    assert kept == chat(*turns)["messages"][: len(kept)]
    assert kept[-1]["role"] == "assistant"
    assert 150 < sum(len(t["content"]) + 1 for t in kept) <= 201


def test_overlap_with_an_evaluation_set(tmp_path):
    held_out = [{"prompt": LONG, "completion": "x"}, {"prompt": "What is 6 x 7?", "completion": "42"}]
    held_out = put(tmp_path / "test.jsonl", jsonl(*held_out))
    rows = [{"instruction": "what is 6 X 7", "input": "", "output": "42"}, *ALPACA,
            {"instruction": f"Translate: {LONG[:70]}", "input": "", "output": "y"}]  # fmt: skip
    path = put(tmp_path / "train.jsonl", jsonl(*rows))
    with examine(path, Options(against=[held_out])) as diagnosis:
        assert found_in(diagnosis) == [("overlap", 1), ("overlap", 5)]
        same, run = diagnosis.findings.kept["overlap"]
        assert f"{held_out}:2" in same.message
        assert "13 tokens in a row" in run.message
        (target,) = write_mended(diagnosis, tmp_path / "y.jsonl")
    assert target.read_text() == jsonl(*ALPACA)


def test_parallel_files_stay_parallel(tmp_path):
    one = put(tmp_path / "t.en", "a house\nthe same\n\na cat\na house\none more\n")
    other = put(tmp_path / "t.de", "ein Haus\nthe same\nleer\neine KatzÃ©\nein Haus\n")
    with examine([one, other]) as diagnosis:
        assert found_in(diagnosis) == [("same", 2), ("empty", 3), ("mojibake", 4), ("duplicate", 5), ("misfit", 6)]
        targets = write_mended(diagnosis, tmp_path / "mended")
    assert [target.read_text() for target in targets] == ["a house\na cat\n", "ein Haus\neine Katzé\n"]


def test_a_copy_is_packed_as_its_name_says(tmp_path):
    text = jsonl(*ALPACA)
    packed = put(tmp_path / "x.jsonl.gz", gzip.compress(text.encode()))
    plain = put(tmp_path / "x.jsonl", text)
    for source, out in ((packed, "plain.jsonl"), (plain, "packed.jsonl.gz")):
        with examine(source) as diagnosis:
            (target,) = write_mended(diagnosis, tmp_path / out)
        assert content_of(target) == text


def test_a_copy_has_the_form_of_its_original(tmp_path):
    path = put(tmp_path / "x.csv", "prompt,completion\nWho?,I.\nWhere?,Here.\n")
    with examine(path) as diagnosis, pytest.raises(BadInput, match=r"as the original is \(\.csv\)"):
        write_mended(diagnosis, tmp_path / "y.jsonl")
    assert not (tmp_path / "y.jsonl").exists()
    lines = put(tmp_path / "lines.json", jsonl(*ALPACA))  # JSON Lines under another name
    with examine(lines) as diagnosis:
        (target,) = write_mended(diagnosis, tmp_path / "y.jsonl")
    assert target.read_text() == jsonl(*ALPACA)


def test_all_of_a_long_file_in_utf_16_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("zhixing.data.doctor.raw.RECORD_LIMIT", 1 << 12)
    rows = [{"text": f"text {number}: {number**7 * 31}"} for number in range(3000)]
    path = put(tmp_path / "x.jsonl", jsonl(*rows).encode("utf-16"))
    with examine(path) as diagnosis:
        assert diagnosis.plans[0].rows == len(rows)


def test_another_way_of_writing_a_label_is_no_contradiction(tmp_path):
    rows = [*LABELLED, {**LABELLED[0], "label": LABELLED[0]["label"].upper()}]
    with examine(put(tmp_path / "x.jsonl", jsonl(*rows))) as diagnosis:
        assert diagnosis.findings.counts["label"]
        assert not diagnosis.findings.counts["contradiction"]


def test_parquet(tmp_path):
    import pyarrow.parquet

    rows = [*ALPACA, ALPACA[0], {"instruction": "Go", "input": "", "output": "Gone.</s>"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    with examine(tmp_path / "x.parquet") as diagnosis:
        assert found_in(diagnosis) == [("duplicate", 4), ("special", 5)]
        (target,) = write_mended(diagnosis, tmp_path / "y.parquet")
    gone = {"instruction": "Go", "input": "", "output": "Gone."}
    assert pyarrow.parquet.read_table(target).to_pylist() == [*ALPACA, gone]


def test_a_folder(tmp_path):
    source = tmp_path / "in"
    (source / "more").mkdir(parents=True)
    put(source / "a.jsonl", jsonl(*ALPACA))
    put(source / "more" / "b.jsonl", jsonl(ALPACA[0], {"instruction": "New", "input": "", "output": "new"}))
    put(source / "odd.jsonl", jsonl({"foo": 1}))
    put(source / "broken.jsonl", "{\n")
    with examine(source) as diagnosis:
        kinds = {finding.kind: finding for _, group in diagnosis.findings.ordered() for finding in group}
        assert set(kinds) == {"shape", "unreadable", "duplicate"}
        assert "columns" in kinds["shape"].mend
        assert kinds["unreadable"].place == f"{source / 'broken.jsonl'}:1"
        assert kinds["duplicate"].place == f"{source / 'more' / 'b.jsonl'}:1"
        targets = write_mended(diagnosis, tmp_path / "out")
    assert [str(target.relative_to(tmp_path / "out")) for target in targets] == ["a.jsonl", "more/b.jsonl"]
    assert targets[0].read_text() == jsonl(*ALPACA)
    assert len(targets[1].read_text().splitlines()) == 1


@pytest.mark.parametrize(
    "kind", ["duplicate", "personal", "empty", "contradiction", "special", "label", "missing_turn"]
)
def test_what_is_to_be_kept_stays(tmp_path, kind):
    rows = {
        "duplicate": [*ALPACA, ALPACA[0]],
        "personal": [*ALPACA, {"instruction": "joe@acme.io", "input": "", "output": "x"}],
        "empty": [*ALPACA, {"instruction": "a", "input": "", "output": ""}],
        "contradiction": [*LABELLED, {"text": "a text about rain", "label": "a"}],
        "special": [*ALPACA, {"instruction": "a", "input": "", "output": "x</s>"}],
        "label": [*LABELLED, {"text": "another text", "label": "A"}],
        "missing_turn": [*GOOD, chat("One?", "1", "Two?")],
    }[kind]
    path = put(tmp_path / "x.jsonl", jsonl(*rows))
    with examine(path, Options(keep=frozenset([kind]))) as diagnosis:
        assert diagnosis.findings.counts[kind]
        (target,) = write_mended(diagnosis, tmp_path / "y.jsonl")
    assert target.read_text() == jsonl(*rows)
