"""The index: found as by brute force, changed in place, whole after any kill."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.tasks.support import run
from zhixing.core.errors import BadInput, MissingResource
from zhixing.tasks.search import Index, Item
from zhixing.tasks.search import index as index_module
from zhixing.tasks.search import store as store_module
from zhixing.tasks.search.terms import query_terms, terms_of

WORDS = "知行 合一 apple river stone cloud paper green seven walk 道 table".split()


def texts(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 9))) + f" {n}" for n in range(count)]


class Encoder:
    """Vectors that depend on the text alone."""

    width, fingerprint = 16, "an encoder"
    runner = SimpleNamespace(
        room=100, tokenizer=SimpleNamespace(encode_with_offsets=lambda text: ([0], [(0, len(text))]))
    )

    def __call__(self, several: list[str]) -> SimpleNamespace:
        rows = [np.random.default_rng(list(text.encode())).standard_normal(16) for text in several]
        return SimpleNamespace(vectors=np.array(rows, np.float32))


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> Encoder:
    monkeypatch.setattr(index_module, "open_embedder", lambda ref="minilm": Encoder())
    monkeypatch.setattr(store_module, "SEGMENT", 40)
    return Encoder()


def cosines(encoder: Encoder, query: str, several: list[str]) -> list[float]:
    vectors = encoder([query, *several]).vectors
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors[1:] @ vectors[0]).tolist()


def bm25(query: str, several: list[str]) -> list[float]:
    """The formula, word for word."""
    documents = [terms_of(text) for text in several]
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for words in documents:
        score, counts = 0.0, Counter(words)
        for term in query_terms(query):
            df = sum(term in other for other in documents)
            idf = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
            tf = counts[term]
            score += idf * tf * 2.2 / (tf + 1.2 * (1 - 0.75 + 0.75 * len(words) / mean))
        scores.append(score)
    return scores


def test_terms() -> None:
    assert terms_of("Hello, WORLD-wide 知行合一3x！") == [
        "hello",
        "world",
        "wide",
        *"知行合一",
        "知行",
        "行合",
        "合一",
        "3x",
    ]
    assert query_terms("知行 a 道") == ["知行", "a", "道"]
    assert terms_of("😀 --- ") == []


def test_both_ways_find_what_brute_force_finds_whatever_was_changed(encoder: Encoder, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index")
    wanted = dict(enumerate(texts(150)))
    index.add(Item(str(key), text) for key, text in wanted.items())
    rng = random.Random(1)
    for step in range(6):
        gone = rng.sample(sorted(wanted), 11)
        assert index.remove([str(key) for key in gone]) == 11
        wanted = {key: text for key, text in wanted.items() if key not in gone}
        new = dict(zip(range(100 + step, 160 + step), texts(60, step + 7), strict=True))
        updated = len(new.keys() & wanted.keys())
        changes = index.add(Item(str(key), text) for key, text in new.items())
        assert (changes.updated, changes.added) == (updated, 60 - updated)
        wanted |= new
        if step == 3:
            assert index.compact() > 40
            assert index.compact() == 0
        if step % 2:
            index.close()
            index = Index.open(tmp_path / "index")
        index.verify()
        for query in ("知行合一 river", "stone table 12", "nothing like it"):
            expected = sorted(zip(cosines(encoder, query, list(wanted.values())), wanted, strict=True), reverse=True)
            found = index.search(query, 12, "semantic")
            assert [hit.score for hit in found] == pytest.approx([score for score, _ in expected[:12]], abs=1e-4)
            assert {wanted[int(hit.key)] for hit in found} == {hit.text for hit in found}
            expected = sorted(zip(bm25(query, list(wanted.values())), wanted, strict=True), reverse=True)
            found = index.search(query, 12, "keyword")
            above = [score for score, _ in expected[:12] if score > 0]
            assert [hit.score for hit in found] == pytest.approx(above, abs=1e-4)
    assert index.facts()["documents"] == len(wanted)


def test_hybrid_ranks_by_both(encoder: Encoder, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index")
    index.add(Item(str(n), text) for n, text in enumerate(texts(50)))
    meant = [hit.key for hit in index.search("apple stone", 50, "semantic")]
    worded = [hit.key for hit in index.search("apple stone", 50, "keyword")]
    scores = Counter({key: 1 / (60 + rank) for rank, key in enumerate(meant, 1)})
    scores.update({key: 1 / (60 + rank) for rank, key in enumerate(worded, 1)})
    found = index.search("apple stone", 10)
    assert [hit.score for hit in found] == pytest.approx([score for _, score in scores.most_common(10)], abs=1e-6)


def test_what_is_the_same_is_not_embedded_again(encoder: Encoder, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index")
    items = [Item(str(n), text) for n, text in enumerate(texts(30))]
    assert index.add(items).passages == 30
    changes = index.add([*items, Item("bad", " "), Item("nul", "a\0b")])
    assert (changes.passages, changes.unchanged, changes.left_out, len(changes.faults)) == (0, 30, 2, 2)


def test_what_is_left_out_is_counted_once_and_said(encoder: Encoder, monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.setenv("ZHIXING_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "in.jsonl"
    file.write_text('{"text": "one", "n": "a"}\n{oops\n{"text": 3, "n": "b"}\n{"text": "two", "n": "c"}\n')
    (tmp_path / "in.txt").write_bytes("知行合一，道可道，非常道。\n学而时习之，不亦说乎？\n".encode("gb18030"))
    for words in (["find", file, "one"], ["index", "add", tmp_path / "index", file]):
        ended = run(monkeypatch, capsys, *words)
        assert ended.code == 0
        assert "2 added (2 passages embedded); 2 left out" in ended.out + ended.err
        assert "in.jsonl:2: not valid JSON" in ended.err
        assert "in.jsonl:3:" in ended.err
    ended = run(monkeypatch, capsys, "index", "add", tmp_path / "keyed", file, "--id-field", "n", "--json")
    values = json.loads(ended.out)
    assert (values["added"], values["left_out"]) == (2, 2)
    ended = run(monkeypatch, capsys, "index", "add", tmp_path / "index", tmp_path / "in.txt")
    assert "GB18030" in ended.err  # worth knowing, and nothing is left out
    assert "left out" not in ended.out + ended.err


def test_records_of_the_same_name(encoder: Encoder, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index")
    changes = index.add([Item("a", "one"), Item("b", "two"), Item("a", "three"), Item("b", "two")])
    assert (changes.added, changes.updated, changes.unchanged) == (2, 1, 1)
    assert sorted(hit.text for hit in index.search("x", 9, "semantic")) == ["three", "two"]


def test_files_are_followed(encoder: Encoder, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("the first text")
    (folder / "b.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    index = Index.create(tmp_path / "index")
    assert index.sync([folder]).added == 3
    assert index.sync([folder]).unchanged == 3
    (folder / "b.jsonl").write_text('{"text": "zero"}\n{"text": "one"}\n')
    (folder / "a.txt").unlink()
    changes = index.sync([folder])
    assert (changes.added, changes.unchanged, changes.removed) == (1, 1, 2)
    assert {hit.text for hit in index.search("x", 10, "semantic")} == {"zero", "one"}


def test_another_encoder_is_refused(models: Path, tmp_path: Path) -> None:
    Index.create(tmp_path / "index", models / "pool").add([Item("a", "a film")])
    with pytest.raises(BadInput, match=r"another encoder[\s\S]*--model"):
        Index.open(tmp_path / "index", models / "other-pool")
    assert Index.open(tmp_path / "index").search("a film")[0].key == "a"


def test_damage_is_said(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(MissingResource, match="zhixing index add"):
        Index.open(tmp_path / "none")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(BadInput, match="no index"):
        Index.create(tmp_path / "full")
    index = Index.create(tmp_path / "index")
    index.add(Item(str(n), text) for n, text in enumerate(texts(30)))
    file = tmp_path / "index" / "vectors-1.f32"
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    with pytest.raises(BadInput, match="damaged: the vectors"):
        Index.open(tmp_path / "index").verify()
    file.write_bytes(data[:-1])
    with pytest.raises(BadInput, match=r"damaged: vectors-1[.]f32 has"):
        Index.open(tmp_path / "index")
    (tmp_path / "index" / "index.db").write_bytes(b"junk" * 1000)
    for leftover in (tmp_path / "index").glob("index.db-*"):
        leftover.unlink()
    with pytest.raises(BadInput, match="damaged"):
        Index.open(tmp_path / "index")
    (tmp_path / "index" / "index.json").write_text('{"format": 99, "width": 16}')
    with pytest.raises(BadInput, match="version"):
        Index.open(tmp_path / "index")


ADDING = """
import sys
sys.path.insert(0, {root!r})
from tests.tasks.test_search import Encoder, texts
from zhixing.tasks.search import index as module
module.open_embedder = lambda ref="minilm": Encoder()
module.BATCH = 5
index = module.Index.open({folder!r})
for n, text in enumerate(texts(2000)):
    index.add([module.Item(f"k{{n}}", text)] if n % 7 else [module.Item(f"k{{n}}", text), module.Item("last", text)])
    print(n, flush=True)
"""


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(encoder: Encoder, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    Index.create(folder).close()
    script = ADDING.format(root=str(Path(__file__).parents[2]), folder=str(folder))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=os.environ)
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(20)]
    time.sleep(random.Random().random() * 0.3)
    process.send_signal(signal.SIGKILL)
    said += process.stdout.readlines()
    process.wait()
    last = max(int(line) for line in said if line.endswith(b"\n"))
    # A write that was under way: bytes that nobody knows.
    with (folder / "vectors-1.f32").open("ab") as file:
        file.write(b"junk junk")
    index = Index.open(folder)
    known = index.store.digests([f"k{n}" for n in range(last + 1)])
    assert len(known) == last + 1
    index.verify()
    index.add([Item("after", "an apple")])
    index.verify()
    found = index.search(texts(2000)[last], 1, "semantic")
    assert found[0].score == pytest.approx(1, abs=1e-4)


def test_the_commands(models: Path, monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.setenv("ZHIXING_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "records.jsonl"
    path.write_text('{"id": 1, "text": "a wonderful film"}\n{"id": 2, "text": "Anna lives in Paris"}\n')
    ended = run(monkeypatch, capsys, "find", path, "Paris", "-m", models / "pool", "--mode", "keyword", "--json")
    assert json.loads(ended.out)["prediction"][0]["place"] == f"{path}:2"
    index = tmp_path / "index"
    words = ["index", "add", index, path, "--id-field", "id", "-m", models / "pool", "--json"]
    assert json.loads(run(monkeypatch, capsys, *words).out)["added"] == 2
    assert "Anna" in run(monkeypatch, capsys, "find", index, "lives", stdin=b"").out
    assert run(monkeypatch, capsys, "index", "remove", index, "2").out == "1 removed\n"
    ended = run(monkeypatch, capsys, "index", "info", index, "--check", "--json")
    assert json.loads(ended.out)["documents"] == 1
    assert run(monkeypatch, capsys, "index", "compact", index).code == 0
    ended = run(monkeypatch, capsys, "find", tmp_path / "nowhere", "x")
    assert ended.code == 3
    assert "no such folder, file or index" in ended.err
    ended = run(monkeypatch, capsys, "find", index, "x", "--mode", "magic")
    assert ended.code == 2
    assert "hybrid, keyword, semantic" in ended.err
