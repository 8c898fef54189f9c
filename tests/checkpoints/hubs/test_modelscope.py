"""ModelScope: the same promises as for the other hub, over its own protocol."""

import pytest
from tests.checkpoints.hubs.conftest import FILES, TAKEN, Fault

from zhixing.checkpoints import references
from zhixing.checkpoints.hubs import modelscope as module
from zhixing.core.errors import BadInput, MissingResource

REF = "ms:org/tiny"
WEIGHTS = "model.safetensors"


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("ref", "revision"), [(REF, "master"), (f"{REF}@v1.0", "v1.0")])
def test_what_a_model_needs_is_taken_once(modelscope, ref, revision):
    folder = references.resolve(ref)
    assert content(folder) == {name: FILES[name] for name in TAKEN}
    assert {query["Revision"] for _, _, query, _ in modelscope.requests} == {revision}
    modelscope.requests.clear()
    assert references.resolve(ref) == folder
    assert modelscope.requests == []


def test_a_cut_connection_is_taken_up_where_it_broke(modelscope):
    modelscope.faults = [Fault("FilePath=model.safetensors", cut=5000, times=2)]
    assert content(references.resolve(REF))[WEIGHTS] == FILES[WEIGHTS]
    ranges = [headers.get("Range") for _, _, _, headers in modelscope.asked(WEIGHTS)]
    assert ranges == [None, "bytes=5000-", "bytes=10000-"]


def test_what_arrived_before_a_kill_is_not_fetched_again(modelscope):
    modelscope.faults = [Fault("FilePath=model", cut=5000), Fault("FilePath=model", status=403)]
    with pytest.raises(MissingResource):
        references.resolve(REF)
    assert module.cached(REF) is None
    modelscope.requests.clear()
    assert content(references.resolve(REF)) == {name: FILES[name] for name in TAKEN}
    assert modelscope.asked(WEIGHTS)[0][3]["Range"] == "bytes=5000-"
    assert not modelscope.asked("config.json")[1:]  # the first was there


def test_a_wrong_checksum_is_refused_and_never_cached(modelscope):
    modelscope.lies[WEIGHTS] = bytes(len(FILES[WEIGHTS]))
    with pytest.raises(BadInput, match="wrong checksum"):
        references.resolve(REF)
    assert not (module.Location(REF).folder / WEIGHTS).exists()
    assert not list(module.Location(REF).folder.rglob("*.part"))


def test_a_changed_file_is_fetched_anew_when_asked(modelscope):
    folder = references.resolve(REF)
    modelscope.files["config.json"] = b'{"model_type": "gpt2"}'
    assert references.resolve(REF) == folder
    modelscope.requests.clear()
    references.pull(REF)
    assert (folder / "config.json").read_bytes() == b'{"model_type": "gpt2"}'
    assert [query.get("FilePath") for _, _, query, _ in modelscope.requests] == [None, "config.json"]


def test_the_token_is_sent(modelscope, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms-secret")
    references.resolve(REF)
    assert {headers.get("Authorization") for _, _, _, headers in modelscope.requests} == {"Bearer ms-secret"}


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (401, {}, "MODELSCOPE_API_TOKEN"),
        (403, {}, "MODELSCOPE_API_TOKEN"),
        (404, {}, "no such model on ModelScope, or no revision 'master'"),
        (429, {"Retry-After": "90"}, "asks to wait 90 s"),
        (500, {}, "500"),
    ],
)
@pytest.mark.parametrize("on", ["/repo/files", "FilePath"])
def test_each_refusal_says_what_to_do(modelscope, on, status, headers, words):
    modelscope.faults = [Fault(on, status, headers, times=99)]
    with pytest.raises(MissingResource, match=f"(?s){words}") as error:
        references.resolve(REF)
    assert error.value.where.startswith(REF)


def test_offline_means_no_request_at_all(modelscope, monkeypatch):
    folder = references.resolve(REF)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    modelscope.requests.clear()
    assert references.resolve(REF) == folder
    with pytest.raises(MissingResource, match="forbids the network"):
        references.resolve(f"{REF}@other")
    assert modelscope.requests == []


@pytest.mark.parametrize("ref", ["ms:", "ms:name", "ms:a/b@", "ms:../b", "ms:a/b/../c", "ms:a/b@../c"])
def test_malformed_references(ref):
    with pytest.raises(BadInput):
        references.resolve(ref)


def test_the_address_can_be_chosen(monkeypatch):
    assert module.endpoint() == "https://www.modelscope.cn"
    monkeypatch.setenv("MODELSCOPE_DOMAIN", "www.modelscope.ai")
    assert module.endpoint() == "https://www.modelscope.ai"
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:1/")
    assert module.endpoint() == "http://127.0.0.1:1"
