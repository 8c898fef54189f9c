"""What a user may call a model: every form is understood, everything else is answered with what is nearest."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zhixing.checkpoints import catalogue as catalogue_module
from zhixing.checkpoints import references
from zhixing.checkpoints.catalogue import Entry, Source, catalogue
from zhixing.checkpoints.hubs.store import Record
from zhixing.core.errors import BadInput, MissingResource


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZHIXING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def model(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_paths(place):
    assert references.resolve(model(place / "runs/one/model")) == place / "runs/one/model"
    assert references.resolve("runs/one").resolve() == place / "runs/one/model"
    (place / "tiny.gguf").write_bytes(b"GGUF")
    assert references.resolve("tiny.gguf").name == "tiny.gguf"


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("", "empty"),
        ("runs/on", "did you mean runs/one"),
        ("smollm2-135", "did you mean smollm2-135m"),
        ("Qwen/Qwen3-0.6B", "write hf:Qwen/Qwen3-0.6B; of ModelScope, ms:Qwen/Qwen3-0.6B"),
        ("https://huggingface.co/Qwen/Qwen3-0.6B", "write hf:Qwen/Qwen3-0.6B"),
        ("https://modelscope.cn/models/Qwen/Qwen3-0.6B", "write ms:Qwen/Qwen3-0.6B"),
        ("ollama:llama3", "zhixing models list"),
        ("notes.txt", "another file"),
        ("empty", "neither a model folder nor a run folder"),
        ("files", "models inside: files/a.gguf"),
        ("unfinished", "zhixing resume unfinished"),
    ],
)
def test_what_is_no_model_is_answered_with_what_is_nearest(place, ref, words):
    model(place / "runs/one/model")
    (place / "notes.txt").write_text("x")
    for name in ("empty", "files", "unfinished"):
        (place / name).mkdir()
    (place / "files/a.gguf").write_bytes(b"GGUF")
    (place / "unfinished/recipe.yaml").write_text("")
    with pytest.raises((MissingResource, BadInput), match=words):
        references.resolve(ref)


def test_a_folder_of_the_same_name_as_the_catalogues(place):
    assert references.is_remote("minilm")
    (place / "minilm").mkdir()
    assert references.is_remote("minilm")
    (place / "minilm/config.json").write_text("{}")
    assert not references.is_remote("minilm")
    assert references.resolve("minilm").name == "minilm"


def test_the_catalogue_is_whole():
    assert set(catalogue()) >= {"smollm2-135m", "gemma3-270m", "minilm"}
    for entry in catalogue().values():
        assert entry.licence
        assert entry.good_for
        assert len(entry.sources) >= 2
        assert entry.cached() is None
        assert all(source.sha256 for source in entry.sources if not source.reference.startswith("hf:"))


def entry(monkeypatch, **outcomes):
    """A catalogue of one model whose sources do what `outcomes` says."""

    def fetch(reference, patience=None, sha256=None):
        outcome = outcomes[reference.removeprefix("hf:")]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(catalogue_module, "fetch_reference", fetch)
    monkeypatch.setattr(catalogue_module, "find_cached", lambda reference: None)
    sources = tuple(Source(1, "safetensors", f"hf:{name}") for name in outcomes)
    tiny = Entry("tiny", "Tiny", 1, "MIT", "tests", sources)
    monkeypatch.setattr(references, "catalogue", lambda: {"tiny": tiny})


def test_the_next_source_is_taken_and_it_is_said(place, monkeypatch, capsys):
    record = Record("hf:two", place, {})
    entry(monkeypatch, one=MissingResource("no connection", where="hf:one"), two=record)
    assert references.resolve("tiny") == place
    assert "tiny: hf:one could not be had (no connection); taken: hf:two" in capsys.readouterr().err


def test_when_none_can_be_had_each_reason_is_said(monkeypatch):
    entry(
        monkeypatch,
        one=MissingResource("no connection", remedy="try a mirror"),
        two=BadInput("wrong checksum: 12 arrived"),
    )
    with pytest.raises(MissingResource, match=r"(?s)hf:one: no connection\n.*hf:two: wrong checksum.*try a mirror"):
        references.resolve("tiny")


def test_a_record_that_does_not_hold_counts_for_nothing(place):
    from zhixing.checkpoints.hubs import store

    (place / "file").write_bytes(b"123")
    record = Record("pypi:a==1/b", place / "file", {place / "file": 3})
    record.write()
    assert store.find_record("pypi:a==1/b") == record
    assert store.all_records() == [record]
    (place / "file").write_bytes(b"12")
    assert store.find_record("pypi:a==1/b") is None
    path = store.record_path("pypi:a==1/b")
    for text in ("", "{", "[]", "{}", json.dumps({"reference": "pypi:a==1/b", "path": 3, "files": [], "verified": 1})):
        path.write_text(text)
        assert store.find_record("pypi:a==1/b") is None
        assert store.all_records() == []


def test_two_processes_do_not_fetch_the_same_twice(place):
    """The second waits for the first; here it is a thread, whose lock is as exclusive."""
    import threading
    import time

    from zhixing.checkpoints.hubs.store import locked

    order = []

    def second():
        with locked("hf:org/tiny"):
            order.append("second")

    with locked("hf:org/tiny"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


PIECES = [*"hf: ms: pypi: org / name @ main == 1.0 .gguf .. ~ \\0 %2e 知 :".split(" "), " ", "\\n", "long" * 1000]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=8).map("".join))
def test_any_text_is_a_model_or_a_message(ref):
    try:
        path = references.resolve(ref)
    except (BadInput, MissingResource) as error:
        assert str(error)
    else:
        assert path.exists()
