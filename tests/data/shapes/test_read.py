"""What does not fit is reported with file, line, value and mend; everything else is read."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.shapes.support import faulty, lines, packed, records, write
from zhixing.core.errors import BadInput, ZhixingError
from zhixing.data import shapes
from zhixing.data.problems import Problems
from zhixing.data.shapes import Pair

GOOD = {
    "chat": {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    "alpaca": {"instruction": "do", "input": "", "output": "done"},
    "preference": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "kto": {"prompt": "q", "completion": "a", "label": True},
    "pair": {"source": "q", "target": "a"},
    "labelled": {"text": "some", "label": "x"},
    "tagged": {"tokens": ["a", "b"], "tags": ["O", "O"]},
    "qa": {"context": "Paris is big", "question": "what?", "answers": [{"text": "Paris", "answer_start": 0}]},
}

FAULTS = [  # layout, what is changed in line 3, words of the report
    ("chat", {"messages": []}, ["messages is []", "a list of turns"]),
    ("chat", {"messages": "hello"}, ['messages is "hello"']),
    ("chat", {"messages": [{"role": "user", "content": "q"}]}, ["no turn of the assistant", "add the answer"]),
    ("chat", {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": " "}]}, ["is empty"]),
    ("chat", {"messages": [{"role": "robot", "content": "q"}]}, ['the role "robot"', "roles are system, user"]),
    ("chat", {"messages": [{"content": "q"}]}, ["messages[0]", "has no role"]),
    ("chat", {"messages": [{"role": "user"}]}, ["messages[0] has no text", 'add "content"']),
    ("chat", {"messages": [{"role": "user", "content": 7}]}, ["messages[0].content is 7", "a text is expected"]),
    ("chat", {"messages": ["hi"]}, ['messages[0] is "hi"']),
    ("chat", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, ["only text is read"]),
    ("chat", {"messages": [{"role": "assistant", "tool_calls": [{"x": 1}]}]}, ["tool_calls[0]", "a call is"]),
    ("alpaca", {"output": ""}, ["'output' is empty", "write the answer"]),
    ("alpaca", {"instruction": " "}, ["'instruction' is empty"]),
    ("alpaca", {"output": None}, ["'output' is null", "write the answer"]),
    ("preference", {"rejected": "a"}, ["are the same", "nothing can be learnt"]),
    ("preference", {"chosen": ""}, ["'chosen' is empty"]),
    ("kto", {"label": "maybe"}, ["'label' is \"maybe\"", "true or false"]),
    ("pair", {"target": "\n"}, ["'target' is empty"]),
    ("pair", {"target": [1, 2]}, ["'target' is [1, 2]", "a text is expected"]),
    ("labelled", {"label": None}, ["the label 'label' is null", "a word or a number"]),
    ("tagged", {"tags": ["O"]}, ["2 token(s) but 1 tag(s)", "give every token one tag"]),
    ("tagged", {"tokens": []}, ["'tokens' is []"]),
    ("qa", {"answers": [{"text": "Rome", "answer_start": 0}]}, ['"Rome" is not in the context', '"Pari"']),
    ("qa", {"question": ""}, ["'question' is empty"]),
]


@pytest.mark.parametrize(("layout", "change", "words"), FAULTS)
def test_what_does_not_fit_is_reported(tmp_path, layout, change, words):
    good = GOOD[layout]
    path = write(tmp_path / "x.jsonl", lines([good, good, {**good, **change}, good]))
    read, told = faulty(path)
    assert len(read) == 3
    (problem,) = told
    assert (problem.source, problem.line) == (str(path), 3)
    for word in words:
        assert word in problem.message


def test_rows_that_are_no_objects(tmp_path):
    path = write(tmp_path / "x.jsonl", lines([GOOD["pair"]] * 4 + [["a"], 5]))
    read, told = faulty(path)
    assert len(read) == 4
    assert [problem.line for problem in told] == [5, 6]
    assert all("a record with named fields is expected" in problem.message for problem in told)


def test_answers_that_stand_elsewhere_are_moved_and_said(tmp_path):
    entry = {**GOOD["qa"], "answers": [{"text": "big", "answer_start": 8}]}
    read, told = faulty(write(tmp_path / "x.jsonl", lines([GOOD["qa"], entry])))
    assert read[1].answers[0].start == 9
    assert told[0].kind == "moved"
    assert '"big" stands at 9, not at 8' in told[0].message
    nested = {"data": [{"paragraphs": [{"context": "a b a", "qas": [
        {"id": "1", "question": "?", "answers": [{"text": "a", "answer_start": 3}]},
        {"id": "2", "question": "", "answers": []},
        {"id": "3", "question": "?", "answers": [{"text": "zz", "answer_start": 0}]},
    ]}, {"context": "", "qas": []}, 5]}]}  # fmt: skip
    read, told = faulty(write(tmp_path / "y.json", nested))
    assert [question.answers[0].start for question in read] == [4]
    messages = " | ".join(problem.message for problem in told)
    for word in (
        'qas[1]: the question is ""',
        'question 3: the answer "zz"',
        "paragraphs[1] has no context",
        "[2] is 5",
    ):
        assert word in messages


def test_broken_rows_of_tables_and_columns(tmp_path):
    table = write(tmp_path / "x.csv", "source,target\na,b\nc\nd,e,f\ng,h\n")
    read, told = faulty(table)
    assert read == [Pair("a", "b"), Pair("g", "h")]
    assert [(problem.kind, problem.line) for problem in told] == [("csv", 3), ("csv", 4)]
    conll = write(tmp_path / "x.conll", "A O\nB B-X\n\nC O\nbroken\nD O\n\nE O\nF O\n" + "\nG O\nH O\n" * 30)
    read, told = faulty(conll)
    assert len(read) == 32
    assert [(problem.kind, problem.line) for problem in told] == [("misfit", 5)]
    assert "'broken'; its sentence is left out" in told[0].message


def test_a_table_with_lines_inside_cells(tmp_path):
    path = write(tmp_path / "x.csv", 'source,target\n"a\nb",c\nd\ne,f\n')
    read, told = faulty(path)
    assert read == [Pair("a\nb", "c"), Pair("e", "f")]
    assert told[0].line == 4


def test_bad_characters(tmp_path):
    path = write(
        tmp_path / "x.jsonl",
        lines([GOOD["pair"]]) + '{"source": "\\ud800", "target": "a"}\n{"source": "\\u0000", "target": "a"}\n',
    )
    read, told = faulty(path)
    assert len(read) == 1
    assert [(problem.kind, problem.line) for problem in told] == [("undecodable", 2), ("undecodable", 3)]
    latin = write(
        tmp_path / "x.txt", b"".join(b"%d What is %d ?\n" % (k % 3, k) for k in range(300)) + b"1 Caf\xe9 ?\n"
    )
    read, told = faulty(latin)
    assert len(read) == 300
    assert (told[0].kind, told[0].line) == ("undecodable", 301)


def test_the_shape_that_was_found_is_said(tmp_path):
    problems = Problems()
    reading = shapes.read(write(tmp_path / "x.jsonl", lines([GOOD["alpaca"]] * 2)), problems=problems)
    assert "read as chat (alpaca: prompt = instruction, response = output" in problems.summary()[1]
    assert reading.shape == "chat"
    assert [placed.line for placed in reading] == [1, 2]
    assert [placed.line for placed in reading] == [1, 2], "it can be read again"


def test_files_of_different_shapes(tmp_path):
    write(tmp_path / "a.jsonl", lines([GOOD["alpaca"]]))
    write(tmp_path / "b.jsonl", lines([GOOD["pair"]]))
    with pytest.raises(BadInput, match=r"different shapes: .*a.jsonl is chat; .*b.jsonl is pair"):
        shapes.read(tmp_path)
    problems = Problems()
    assert len(list(shapes.read(tmp_path, shape="chat", problems=problems))) == 1
    assert "b.jsonl: left out: no shape" in str(problems.examples["unsupported"][0])
    with pytest.raises(BadInput, match="no layout of tagged"):
        shapes.read(tmp_path, shape="tagged")


@pytest.mark.parametrize("kind", ["", "gz", "zip"])
def test_parallel_files(tmp_path, kind):
    names = []
    for language, texts in (("en", "one\n\nthree\r\n"), ("de", "eins\nzwei\ndrei\n")):
        folder = tmp_path / language
        folder.mkdir()
        names.append(packed(folder / f"train.{language}", texts.encode(), kind))
    read, told = faulty(names)
    assert read == [Pair("one", "eins"), Pair("three", "drei")]
    assert [(problem.kind, problem.line) for problem in told] == [("empty", 2)]
    assert [pair.source for pair in faulty(names[::-1])[0]] == ["eins", "drei"]


def test_parallel_files_in_a_folder(tmp_path):
    for stem in ("train", "val"):
        for language in ("en", "de", "fr"):
            write(tmp_path / f"{stem}.{language}", f"{stem} {language}\n")
    with pytest.raises(BadInput, match="parallel files in de, en, fr: which is the source") as error:
        shapes.read(tmp_path)
    assert "columns: {source: de, target: fr}" in error.value.remedy
    read, told = faulty(tmp_path, columns={"source": "fr", "target": "en"})
    assert read == [Pair("train fr", "train en"), Pair("val fr", "val en")]
    assert len(told) == 2, "the German files are left out, and that is said"
    with pytest.raises(BadInput, match="no parallel files in 'fr' and 'it'") as error:
        shapes.read(tmp_path, columns={"source": "fr", "target": "it"})
    assert "de, en, fr" in error.value.remedy


def test_parallel_files_of_unequal_length(tmp_path):
    one, other = write(tmp_path / "a.en", "1\n2\n3\n"), write(tmp_path / "a.de", "1\n2\n")
    with pytest.raises(BadInput, match=r"a.de: it ends after 2 line\(s\), the other file has 3"):
        list(shapes.read([one, other]))


def test_parallel_lines_stay_together_when_one_does_not_decode(tmp_path):
    one = write(tmp_path / "a.en", b"".join(b"line %d\n" % k for k in range(200)) + b"caf\xe9\nlast\n")
    other = write(tmp_path / "a.de", "".join(f"Zeile {k}\n" for k in range(200)) + "Kaffee\nletzte\n")
    read, told = faulty([one, other])
    assert read[-1] == Pair("last", "letzte")
    assert len(read) == 201
    assert (told[0].kind, told[0].line) == ("undecodable", 201)


def test_plain_text_files_are_a_pair_only_when_asked(tmp_path):
    one, other = write(tmp_path / "source.txt", "a\nb\n"), write(tmp_path / "target.txt", "c\nd\n")
    assert records([one, other], shape="pair") == [Pair("a", "c"), Pair("b", "d")]
    assert shapes.read([one, other]).shape == "text"


PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20


def test_pictures(tmp_path):
    (tmp_path / "images").mkdir()
    write(tmp_path / "images" / "1.png", PNG)
    write(tmp_path / "images" / "2.png", b"GIF? no")
    rows = [{"image": f"images/{k}.png", "caption": f"a picture {k}"} for k in (1, 1, 2, 3)] + [
        {"image": "images/1.png", "caption": ["a", "b"]}
    ]
    read, told = faulty(write(tmp_path / "x.jsonl", lines(rows)))
    assert [record.text for record in read] == ["a picture 1", "a picture 1", "a", "b"]
    assert read[0].image == tmp_path / "images" / "1.png"
    assert "is no picture" in told[0].message
    assert "cannot be read: No such file" in told[1].message
    assert [problem.line for problem in told] == [3, 4]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab1 \n", max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "text", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
ROWS = st.dictionaries(
    st.sampled_from(["messages", "prompt", "chosen", "rejected", "label", "text", "source", "target", "tokens", "tags",
                     "instruction", "output", "context", "question", "answers", "paragraphs", "tools", "system"]),
    VALUES, max_size=6,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(ROWS, VALUES), min_size=1, max_size=4))
def test_whatever_the_rows_hold_nothing_breaks(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "x.jsonl"
    write(path, lines(rows))
    try:
        for placed in shapes.read(path):
            assert isinstance(placed.record, shapes.SHAPES[shapes.detect(path).shape])
    except ZhixingError as error:
        assert str(path) in str(error)


@settings(max_examples=100, deadline=None)
@given(st.text('ab\t,;"\n O-BI0/_#1', max_size=120), st.sampled_from([".txt", ".csv", ".tsv", ".conll"]))
def test_whatever_the_text_nothing_breaks(tmp_path_factory, content, suffix):
    path = tmp_path_factory.mktemp("text") / f"x{suffix}"
    write(path, content)
    try:
        list(shapes.read(path))
    except ZhixingError as error:
        assert str(path) in str(error)


def test_a_target_may_be_an_object(tmp_path):
    file = tmp_path / "people.jsonl"
    file.write_text('{"text": "Anna, 31", "json": {"name": "Änna", "age": 31}}\n' * 2, encoding="utf-8")
    (first, _) = shapes.read(file, shape="pair", columns={"source": "text", "target": "json"})
    assert first.record == Pair("Anna, 31", '{"name": "Änna", "age": 31}')
