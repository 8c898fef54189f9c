"""Every layout is found by looking, with its columns; what cannot be told is said."""

import pytest

from tests.data.shapes.support import lines, packed, parquet, records, write
from zhixing.core.errors import BadInput, MissingResource
from zhixing.data import shapes
from zhixing.data.shapes import Answer, Labelled, Message, Pair, Tagged, Text, ToolCall
from zhixing.data.shapes.layouts import KNOWN, LAYOUTS


def user(text):
    return Message("user", text)


def bot(text):
    return Message("assistant", text)


TURNS = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
SHAREGPT = [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]
HH = (
    "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: 2+2?\n\nAssistant: 4",
    "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: 2+2?\n\nAssistant: 5",
)

JSON = {  # row -> shape, first record
    "text": ({"text": "one text"}, "text", Text("one text")),
    "lines of text": (
        {"title": "t", "paragraphs": ["床前明月光", "疑是地上霜"]},
        "text",
        Text("床前明月光\n疑是地上霜"),
    ),
    "pair": ({"source": "a b", "target": "c d"}, "pair", Pair("a b", "c d")),
    "summary": ({"id": "1", "dialogue": "A: hi", "summary": "greeting"}, "pair", Pair("A: hi", "greeting")),
    "labelled": ({"text": "good film", "label": 1}, "labelled", Labelled("good film", "1")),
    "several labels": ({"text": "good film", "labels": ["a", "b"]}, "labelled", Labelled("good film", ("a", "b"))),
    "two texts": (
        {"premise": "a man eats", "hypothesis": "he sleeps", "label": "no"},
        "labelled",
        Labelled("a man eats", "no", "he sleeps"),
    ),
    "tagged": (
        {"tokens": ["EU", "rejects"], "ner_tags": ["B-ORG", "O"]},
        "tagged",
        Tagged(("EU", "rejects"), ("B-ORG", "O")),
    ),
    "question": (
        {"context": "Paris is in France", "question": "Where?", "answers": {"text": ["France"], "answer_start": [12]}},
        "qa",
        shapes.Question("Paris is in France", "Where?", (Answer("France", 12),)),
    ),
    "question with one answer": (
        {"context": "Paris is in France", "question": "Where?", "answer": "France", "id": 7},
        "qa",
        shapes.Question("Paris is in France", "Where?", (Answer("France", 12),), "7"),
    ),
    "OpenAI": ({"messages": TURNS}, "chat", shapes.Chat((user("2+2?"), bot("4")))),
    "ShareGPT": (
        {"conversations": SHAREGPT, "system": "Add."},
        "chat",
        shapes.Chat((Message("system", "Add."), user("2+2?"), bot("4"))),
    ),
    "alpaca": (
        {"instruction": "Add", "input": "2+2", "output": "4"},
        "chat",
        shapes.Chat((user("Add\n2+2"), bot("4"))),
    ),
    "alpaca with history": (
        {"instruction": "3+3", "input": "", "output": "6", "history": [["2+2", "4"]]},
        "chat",
        shapes.Chat((user("2+2"), bot("4"), user("3+3"), bot("6"))),
    ),
    "dolly": (
        {"instruction": "Add", "context": "2+2", "response": "4"},
        "chat",
        shapes.Chat((user("Add\n2+2"), bot("4"))),
    ),
    "prompt and completion": ({"prompt": "2+2?", "completion": "4"}, "chat", shapes.Chat((user("2+2?"), bot("4")))),
    "prompt and completion by turns": (
        {"prompt": TURNS[:1], "completion": TURNS[1:]},
        "chat",
        shapes.Chat((user("2+2?"), bot("4"))),
    ),
    "self-instruct": (
        {"instruction": "Add", "instances": [{"input": "2+2", "output": "4"}, {"input": "1+1", "output": "2"}]},
        "chat",
        shapes.Chat((user("Add\n2+2"), bot("4"))),
    ),
    "preference": (
        {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
        "preference",
        shapes.Preference((user("2+2?"),), (bot("4"),), (bot("5"),)),
    ),
    "alpaca preference": (
        {"instruction": "Add", "input": "2+2", "output": "4", "chosen": "4", "rejected": "5"},
        "preference",
        shapes.Preference((user("Add\n2+2"),), (bot("4"),), (bot("5"),)),
    ),
    "ShareGPT preference": (
        {
            "conversations": SHAREGPT[:1],
            "chosen": {"from": "gpt", "value": "4"},
            "rejected": {"from": "gpt", "value": "5"},
        },
        "preference",
        shapes.Preference((user("2+2?"),), (bot("4"),), (bot("5"),)),
    ),
    "preference that repeats the prompt": (
        {"prompt": TURNS[:1], "chosen": TURNS, "rejected": [*TURNS[:1], {"role": "assistant", "content": "5"}]},
        "preference",
        shapes.Preference((user("2+2?"),), (bot("4"),), (bot("5"),)),
    ),
    "dialogues that part": (
        {"chosen": HH[0], "rejected": HH[1]},
        "preference",
        shapes.Preference((user("Hi"), bot("Hello"), user("2+2?")), (bot("4"),), (bot("5"),)),
    ),
    "KTO": (
        {"prompt": "2+2?", "completion": "5", "label": False},
        "unpaired_preference",
        shapes.UnpairedPreference((user("2+2?"),), (bot("5"),), False),
    ),
    "KTO by turns": (
        {"messages": TURNS, "label": True},
        "unpaired_preference",
        shapes.UnpairedPreference((user("2+2?"),), (bot("4"),), True),
    ),
}


@pytest.mark.parametrize(("row", "shape", "record"), JSON.values(), ids=JSON)
def test_json_layouts(tmp_path, row, shape, record):
    path = write(tmp_path / "data.jsonl", lines([row] * 3))
    found = shapes.detect(path)
    assert (found.shape, found.sure) == (shape, True), found.to_json()
    assert found.example == record
    assert records(path)[0] == record
    # The same rows as an array, which is read from the line each begins on.
    array = write(tmp_path / "array.json", [row] * 3)
    assert records(array)[0] == record


def test_every_layout_is_tried_here():
    tried = set()
    for row, shape, _ in JSON.values():
        tried |= {layout.name for layout in LAYOUTS if layout.shape == shape and _has(layout, row)}
    apart = {"SQuAD", "CMRC", "picture and text", "translation by language", "words", "question and answer", "text"}
    assert {layout.name for layout in LAYOUTS} <= tried | apart


def _has(layout, row):
    return all(any(name in row for name in field.names) for field in layout.fields if field.required)


def test_known_names_are_in_lower_case():
    assert all(name == name.lower() for name in KNOWN)


def test_tool_calls(tmp_path):
    call = '{"name": "add", "arguments": {"a": 2}}'
    tools = '[{"name": "add", "parameters": {"type": "object"}}]'
    turns = [SHAREGPT[0], {"from": "function_call", "value": call}, {"from": "observation", "value": "4"}, SHAREGPT[1]]
    openai = [
        TURNS[0],
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
        TURNS[1],
    ]  # fmt: skip
    one = records(write(tmp_path / "a.jsonl", lines([{"conversations": turns, "tools": tools}])))[0]
    other = records(write(tmp_path / "b.jsonl", lines([{"messages": openai, "tools": []}])))[0]
    assert one.messages[1].calls == (ToolCall("add", {"a": 2}),)
    assert one.messages[2] == Message("tool", "4")
    assert one.tools == ({"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}},)
    assert other.messages[1].calls == (ToolCall("add", {"a": 2}, "c1"),)
    written = other.to_json()["messages"][1]["tool_calls"][0]
    assert written == {"type": "function", "id": "c1", "function": {"name": "add", "arguments": {"a": 2}}}


TABLES = {
    "a header": ("a.csv", "text,category\ngood,a\nbad,b\n", "labelled", Labelled("good", "a")),
    "a header in capitals, more columns": (
        "a.csv", ",split,topic,label,TEXT\n1,dev,race,1,some text\n2,dev,race,0,other text\n", "labelled",
        Labelled("some text", "1")),
    "semicolons": ("a.csv", "source;target\none;eins\ntwo;zwei\n", "pair", Pair("one", "eins")),
    "codes of languages": ("a.tsv", "en\tde\n" + "".join(f"sentence {k} here\tSatz {k} da\n" for k in range(9)), "pair",
                           Pair("sentence 0 here", "Satz 0 da")),
    "no header": ("a.tsv", "".join(f"a film that is {k}\t{k % 2}\n" for k in range(12)), "labelled",
                  Labelled("a film that is 0", "0")),
    "no header, label first": ("a.tsv", "".join(f"{['neg', 'pos'][k % 2]}\ta film that is {k}\n" for k in range(12)),
                               "labelled", Labelled("a film that is 0", "neg")),
    "a constant column": ("a.tsv", "".join(f"to title\tlong text {k}\tshort {k}!\n" for k in range(12)), "pair",
                          Pair("long text 0", "short 0!")),
    "text suffix": ("a.txt", "".join(f"标题之{k}\t{k % 3}\n" for k in range(12)), "labelled", Labelled("标题之0", "0")),
    "quotes in TSV are text": ("a.tsv", "".join(f'"Hm {k}", he said.\t"嗯{k}\n' for k in range(9)), "pair",
                               Pair('"Hm 0", he said.', '"嗯0')),
    "quoted TSV": ("a.tsv", "".join(f'"He said ""Hm {k}"""\t嗯{k}\n' for k in range(9)), "pair",
                   Pair('He said "Hm 0"', "嗯0")),
    "labels before a space": ("a.all", "".join(f"{k % 3} What is {k} ?\n" for k in range(30)), "labelled",
                              Labelled("What is 0 ?", "0")),
    "fastText": ("a.txt", "".join(f"__label__{'ab'[k % 2]} What is {k} ?\n" for k in range(30)), "labelled",
                 Labelled("What is 0 ?", "a")),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "shape", "record"), TABLES.values(), ids=TABLES)
def test_tables(tmp_path, name, content, shape, record):
    path = write(tmp_path / name, content)
    found = shapes.detect(path)
    assert (found.shape, found.sure) == (shape, True), found.to_json()
    assert records(path)[0] == record


CONLL = (
    "-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\nrejects VBZ I-VP O\n\nPeter NNP I-NP I-PER\nBlackburn NNP I-NP I-PER\n"
)
CONLLU = (
    "# sent_id = 1\n1-2\tdon't\t_\t_\t_\t_\t_\t_\t_\t_\n1\tdo\tdo\tAUX\tVB\t_\t0\troot\t_\t_\n"
    "2\tn't\tnot\tPART\tRB\t_\t1\tadvmod\t_\t_\n\n"
    "# sent_id = 2\n1\tGo\tgo\tVERB\tVB\t_\t0\troot\t_\t_\n1.1\tx\tx\tX\tX\t_\t_\t_\t_\t_\n\n"
)
TAGGED = {
    "CoNLL-2003": ("eng.testa", CONLL, "tags: IOB1", Tagged(("EU", "rejects"), ("I-ORG", "O")), 2),
    "BMES": ("x.bmes", "吴 B-NAME\n重 M-NAME\n阳 E-NAME\n\n男 O\n", "tags: BMES",
             Tagged(("吴", "重", "阳"), ("B-NAME", "M-NAME", "E-NAME")), 2),
    "BIOES": ("x.txt", "吴\tB-N\n重\tE-N\n，\tO\n\n男\tS-N\n", "tags: BIOES",
              Tagged(("吴", "重", "，"), ("B-N", "E-N", "O")), 2),
    "places in words": ("weibo.dev", "女0\tB-PER.NOM\n人1\tI-PER.NOM\n，0\tO\n\n310\tO\n", "tags: BIO",
                        Tagged(("女", "人", "，"), ("B-PER.NOM", "I-PER.NOM", "O")), 2),
    "CoNLL-U": ("x.conllu", CONLLU, "tags: none", Tagged(("do", "n't"), ("AUX", "PART")), 2),
    "slashes": ("ca01", "\n\tThe/at Jury/nn said/vbd ./.\n\n" * 10, "tags: none",
                Tagged(("The", "Jury", "said", "."), ("at", "nn", "vbd", ".")), 10),
    "parts of speech": ("x.pos", "The DT\ndog NN\nbarks VB\n\nA DT\ncat NN\nsleeps VB\n\n" * 6, "tags: none",
                        Tagged(("The", "dog", "barks"), ("DT", "NN", "VB")), 12),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "note", "record", "count"), TAGGED.values(), ids=TAGGED)
def test_tagged(tmp_path, name, content, note, record, count):
    path = write(tmp_path / name, content)
    found = shapes.detect(path)
    assert (found.shape, found.sure) == ("tagged", True), found.to_json()
    assert found.notes[0] == note
    read = records(path)
    assert read[0] == record
    assert len(read) == count


SQUAD = {"data": [{"title": "t", "paragraphs": [{"context": "北京是中国的首都", "qas": [
    {"id": "q1", "question": "首都？", "answers": [{"text": "北京", "answer_start": 0}] * 2},
    {"id": "q2", "question": "无？", "answers": [], "is_impossible": True},
]}]}]}  # fmt: skip
CMRC = [{"context_id": "1", "context_text": "北京是中国的首都", "qas": [
    {"query_id": "q1", "query_text": "首都？", "answers": ["北京", "北京"]}]}]  # fmt: skip


@pytest.mark.parametrize("content", [SQUAD, CMRC], ids=["SQuAD", "CMRC"])
def test_questions(tmp_path, content):
    read = records(write(tmp_path / "x.json", content))
    assert read[0] == shapes.Question("北京是中国的首都", "首都？", (Answer("北京", 0),), "q1")
    if len(read) > 1:
        assert read[1].answers == ()


@pytest.mark.parametrize("kind", ["", "gz", "zst", "zip"])
def test_compressed(tmp_path, kind):
    path = packed(tmp_path / "data.jsonl", lines([JSON["alpaca"][0]] * 3).encode(), kind)
    assert records(path) == [JSON["alpaca"][2]] * 3
    conll = packed(tmp_path / "eng.train", CONLL.encode(), kind)
    assert len(records(conll)) == 2


def test_parquet(tmp_path):
    path = parquet(tmp_path / "x.parquet", [{"messages": TURNS}, {"messages": TURNS}])
    assert records(path) == [JSON["OpenAI"][2]] * 2
    rows = [
        {"context": "Paris is in France", "question": "Where?", "answers": {"text": ["France"], "answer_start": [12]}}
    ]
    assert records(parquet(tmp_path / "y.parquet", rows)) == [JSON["question"][2]]


def test_texts_by_language_need_a_direction(tmp_path):
    path = write(tmp_path / "x.jsonl", lines([{"translation": {"en": "one", "de": "eins"}}] * 3))
    found = shapes.detect(path)
    assert (found.shape, found.sure) == ("pair", False)
    with pytest.raises(BadInput, match="the direction must be said"):
        shapes.read(path)
    assert records(path, columns={"source": "de", "target": "en"})[0] == Pair("eins", "one")


def test_what_cannot_be_told_is_asked(tmp_path):
    choice = write(tmp_path / "choice.csv", "Question,A,B,C,Answer\n" + "".join(
        f"which one is number {k} here,first of {k},second of {k},third of {k},A\n" for k in range(9)))  # fmt: skip
    with pytest.raises(BadInput, match="may be pair or chat") as error:
        shapes.read(choice)
    assert "columns: {source: COLUMN, target: COLUMN}" in error.value.remedy
    assert "columns: Question, A, B, C, Answer" in error.value.remedy
    odd = write(tmp_path / "odd.jsonl", lines([{"foo": "x", "bar": 2}]))
    assert shapes.detect(odd).shape is None
    with pytest.raises(BadInput, match="no shape of records is known") as error:
        shapes.read(odd)
    assert "columns: foo, bar" in error.value.remedy


def test_an_explicit_mapping(tmp_path):
    path = write(tmp_path / "x.jsonl", lines([{"foo": "one", "bar": "eins", "text": "z"}] * 2))
    assert records(path, columns={"source": "foo", "target": "bar"}) == [Pair("one", "eins")] * 2
    assert records(path, columns={"text": "bar"}) == [Text("eins")] * 2
    assert records(path, columns={"text": "foo", "label": "bar"}) == [Labelled("one", "eins")] * 2
    assert records(path, columns={"prompt": "foo", "response": "bar"}, shape="chat")[0].messages == (
        user("one"),
        bot("eins"),
    )
    table = write(tmp_path / "x.tsv", "a\t1\tx\nb\t2\ty\n")
    assert records(table, columns={"source": "1", "target": "3"}) == [Pair("a", "x"), Pair("b", "y")]
    conll = write(tmp_path / "eng", CONLL)
    assert records(conll, columns={"tokens": "1", "tags": "3"})[0].tags == ("I-NP", "I-VP")


@pytest.mark.parametrize(
    ("columns", "cause", "remedy"),
    [
        ({"source": "foo", "target": "baz"}, "no column 'baz' for target", "did you mean 'bar'?"),
        ({"source": "foo", "tagret": "bar"}, "unknown role in columns 'tagret'", "did you mean 'target'?"),
        ({"source": "foo"}, "columns names source, which no shape is made of", "{source, target}"),
        ({"messages": "foo"}, "no record fits", "a list of turns is expected"),
    ],
)
def test_mappings_that_cannot_be(tmp_path, columns, cause, remedy):
    path = write(tmp_path / "x.jsonl", lines([{"foo": "one", "bar": "eins"}] * 2))
    with pytest.raises(BadInput) as error:
        shapes.read(path, columns=columns)
    assert cause in error.value.cause
    assert remedy in error.value.remedy


def test_a_shape_that_is_wanted(tmp_path):
    path = write(tmp_path / "x.jsonl", lines([JSON["alpaca"][0]] * 3))
    assert records(path, shape="pair")[0] == Pair("Add\n\n2+2", "4")
    with pytest.raises(BadInput, match="no layout of tagged"):
        shapes.read(path, shape="tagged")
    with pytest.raises(BadInput, match="unknown shape 'dialogue'"):
        shapes.read(path, shape="dialogue")
    kto = write(tmp_path / "kto.jsonl", lines([JSON["KTO by turns"][0]] * 3))
    with pytest.raises(BadInput, match="its records are unpaired_preference"):
        shapes.read(kto, shape="chat")
    brown = write(tmp_path / "ca01", TAGGED["slashes"][1])
    assert records(brown, shape="text")[0] == Text("The Jury said .")


def test_files_that_are_not_there_or_hold_nothing(tmp_path):
    with pytest.raises(MissingResource, match="no such file"):
        shapes.detect(tmp_path / "none.json")
    with pytest.raises(BadInput, match="no record can be read: the file is empty"):
        shapes.detect(write(tmp_path / "a.jsonl", ""))
    with pytest.raises(BadInput, match="no record can be read: not valid JSON"):
        shapes.detect(write(tmp_path / "b.jsonl", "{broken\n"))
    with pytest.raises(BadInput, match="no record can be read"):
        shapes.detect(write(tmp_path / "c.csv", b"\x00\x01\x02\x03" * 50))
    with pytest.raises(BadInput, match="damaged"):
        shapes.detect(write(tmp_path / "d.jsonl.gz", b"\x1f\x8b\x08\x00broken"))
    write(tmp_path / "e.jsonl", lines([{"text": "a"}]))
    with pytest.raises(BadInput, match="files here; look at one at a time"):
        shapes.detect(tmp_path)
