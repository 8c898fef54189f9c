"""The Hugging Face hub: what is taken, what is verified, what survives a cut connection, what each refusal says."""

import time
from pathlib import Path

import pytest
from tests.checkpoints.hubs.conftest import COMMIT, FILES, TAKEN, Fault

from zhixing.checkpoints import references
from zhixing.checkpoints.hubs import huggingface, store, transfer, web
from zhixing.core.errors import BadInput, MissingResource

REF = "hf:org/tiny"
WEIGHTS = "model.safetensors"


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_a_model_needs_is_taken_and_nothing_else(hub):
    folder = references.resolve(REF)
    assert content(folder) == {name: FILES[name] for name in TAKEN}
    assert folder == huggingface.Location(REF).folder / "snapshots" / COMMIT
    assert not list(folder.parents[1].rglob("*.incomplete"))


def test_other_programs_find_it_in_the_hubs_cache(hub):
    from huggingface_hub import constants, scan_cache_dir, try_to_load_from_cache

    folder = references.resolve(REF)
    for name in TAKEN:
        assert try_to_load_from_cache("org/tiny", name, cache_dir=constants.HF_HUB_CACHE) == str(folder / name)
    report = scan_cache_dir(constants.HF_HUB_CACHE)
    (repository,) = report.repos
    assert repository.repo_id == "org/tiny"
    assert not report.warnings


def test_what_another_program_fetched_is_not_fetched_again(hub, monkeypatch):
    from huggingface_hub import constants, hf_hub_download

    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    for name in sorted(TAKEN):
        hf_hub_download("org/tiny", name, cache_dir=constants.HF_HUB_CACHE, endpoint=hub.url)
    hub.requests.clear()
    references.resolve(REF)
    assert [request[1] for request in hub.requests] == ["/api/models/org/tiny/revision/main"]
    hub.requests.clear()
    references.resolve(REF)
    assert hub.requests == []


@pytest.mark.parametrize("ref", [REF, f"{REF}@main", f"{REF}@{COMMIT}", "hf:org/tiny@refs/pr/1"])
def test_a_warm_cache_touches_nothing(hub, ref):
    first = references.resolve(ref)
    hub.stop()
    hub.requests.clear()
    assert references.resolve(ref) == first
    assert hub.requests == []


@pytest.mark.parametrize("cut", [0, 1, 1000, 255_999])
def test_a_cut_connection_is_taken_up_where_it_broke(hub, cut):
    hub.faults = [Fault("/cdn/", cut=cut, times=1)]
    folder = references.resolve(REF)
    assert content(folder)[WEIGHTS] == FILES[WEIGHTS]
    ranges = [headers.get("Range") for _, _, _, headers in hub.asked("/cdn/")]
    assert ranges == [None, f"bytes={cut}-" if cut else None]


def test_what_arrived_before_a_kill_is_not_fetched_again(hub):
    hub.faults = [Fault("/cdn/", cut=5000, times=1), Fault("/cdn/", status=403, times=1)]
    with pytest.raises(MissingResource):
        references.resolve(REF)
    (part,) = huggingface.Location(REF).folder.rglob("*.incomplete")
    assert part.stat().st_size == 5000
    assert huggingface.cached(REF) is None
    hub.requests.clear()
    assert content(references.resolve(REF))[WEIGHTS] == FILES[WEIGHTS]
    assert [request[1] for request in hub.asked("/resolve/")] == [
        f"/org/tiny/resolve/{COMMIT}/{WEIGHTS}",
        f"/org/tiny/resolve/{COMMIT}/tokenizer.json",
    ]
    assert hub.asked("/cdn/")[0][3]["Range"] == "bytes=5000-"


@pytest.mark.parametrize("rest", [b"x" * 100, b"x" * len(FILES[WEIGHTS]), b"x" * (len(FILES[WEIGHTS]) + 1)])
def test_a_rest_of_something_else_is_thrown_away(hub, rest):
    blobs = huggingface.Location(REF).folder / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hub.sha256(FILES[WEIGHTS])}.incomplete").write_bytes(rest)
    assert content(references.resolve(REF))[WEIGHTS] == FILES[WEIGHTS]


def test_a_server_without_ranges_sends_all_of_it_again(hub):
    hub.lies["no ranges"] = True
    hub.faults = [Fault("/cdn/", cut=5000)]
    assert content(references.resolve(REF))[WEIGHTS] == FILES[WEIGHTS]


@pytest.mark.parametrize(
    "sent", [bytes(256_000), FILES[WEIGHTS][:-1] + b"x", FILES[WEIGHTS] + b"more"], ids=["other", "last byte", "longer"]
)
def test_a_wrong_checksum_is_refused_and_never_cached(hub, sent):
    hub.lies[WEIGHTS] = sent
    with pytest.raises(BadInput, match=r"wrong checksum|were announced"):
        references.resolve(REF)
    place = huggingface.Location(REF)
    assert not (place.folder / "snapshots" / COMMIT / WEIGHTS).exists()
    assert huggingface.cached(REF) is None
    assert not [path for path in place.folder.rglob("*") if path.is_file() and path.read_bytes() == sent]


def test_a_small_file_is_verified_too(hub):
    hub.files["config.json"] = b'{"model_type": "gpt2"}'
    hub.listed = FakeListing(hub, {"config.json": FILES["config.json"]})
    with pytest.raises(BadInput, match="22 bytes, 23 were announced"):
        references.resolve(REF)


def test_a_small_file_of_the_right_size_is_verified_too(hub):
    hub.files["config.json"] = FILES["config.json"].replace(b"llama", b"llamb")
    hub.listed = FakeListing(hub, {"config.json": FILES["config.json"]})
    with pytest.raises(BadInput, match="wrong checksum"):
        references.resolve(REF)


class FakeListing:
    """A listing that gives the checksums of other contents."""

    def __init__(self, hub, other):
        self.real, self.other = hub.listed, other

    def __call__(self, name, data):
        return self.real(name, self.other.get(name, data))


def test_a_damaged_cache_is_mended(hub):
    folder = references.resolve(REF)
    (folder / WEIGHTS).resolve().write_bytes(b"short")
    assert huggingface.cached(REF) is None
    assert content(references.resolve(REF))[WEIGHTS] == FILES[WEIGHTS]


def test_a_mirror_that_lists_names_only_is_asked_for_each_file(hub):
    hub.lies["names only"] = True
    assert content(references.resolve(REF)) == {name: FILES[name] for name in TAKEN}
    assert {request[0] for request in hub.asked("/resolve/")} == {"GET", "HEAD"}
    hub.files[WEIGHTS] = b"short"
    hub.lies[WEIGHTS] = b"shirt"
    with pytest.raises(BadInput, match="wrong checksum"):
        references.pull(REF)


def test_the_token_goes_to_the_hub_and_no_further(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    references.resolve(REF)
    for _, path, _, headers in hub.requests:
        assert headers.get("Authorization") == (None if path.startswith("/cdn/") else "Bearer hf_secret")


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (401, {"X-Error-Code": "RepoNotFound"}, "no such model on the hub, or a private one"),
        (401, {"X-Error-Code": "GatedRepo"}, "gated.*hf auth login"),
        (403, {"X-Error-Code": "GatedRepo"}, "gated"),
        (403, {}, "gated"),
        (404, {"X-Error-Code": "RepoNotFound"}, "no such model on the hub"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "no revision 'main'"),
        (429, {"Retry-After": "300"}, "too many requests; it asks to wait 300 s"),
        (500, {}, "500"),
        (503, {}, "503"),
    ],
)
def test_each_refusal_says_what_to_do(hub, status, headers, words):
    hub.faults = [Fault("/api/", status, headers, times=99)]
    with pytest.raises(MissingResource, match=f"(?s){words}") as error:
        references.resolve(REF)
    assert error.value.where == REF
    assert error.value.remedy


def test_a_server_that_is_busy_for_a_moment_is_asked_again(hub):
    hub.faults = [Fault("/cdn/", 503, times=2), Fault("/cdn/", 429, {"Retry-After": "0"}), Fault("/cdn/", 500)]
    assert content(references.resolve(REF))[WEIGHTS] == FILES[WEIGHTS]


def test_a_server_that_always_fails_is_given_up(hub):
    hub.faults = [Fault("/cdn/", 503, times=99)]
    with pytest.raises(MissingResource, match="503"):
        references.resolve(REF)
    assert len(hub.asked("/cdn/")) == transfer.ATTEMPTS


def test_a_long_wait_is_left_to_the_user(hub):
    hub.faults = [Fault("/cdn/", 429, {"Retry-After": "4000"}, times=99)]
    with pytest.raises(MissingResource, match="wait 4000 s"):
        references.resolve(REF)
    assert len(hub.asked("/cdn/")) == 1


def test_offline_means_no_request_at_all(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingResource, match="HF_HUB_OFFLINE=1 forbids the network"):
        references.resolve(REF)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    folder = references.resolve(REF)
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert references.resolve(REF) == folder
    for path in (store.cache_folder() / "records").iterdir():  # as after a download by another program
        path.unlink()
    assert references.resolve(REF) == folder
    (folder / "config.json").unlink()
    with pytest.raises(MissingResource, match="forbids"):
        references.resolve(REF)
    assert hub.requests == []


def test_a_hub_out_of_reach_leaves_what_is_there(hub, capsys):
    folder = references.resolve(REF)
    for path in (store.cache_folder() / "records").iterdir():
        path.unlink()
    hub.stop()
    assert references.resolve(REF) == folder
    assert "taking what is in the hub's cache" in capsys.readouterr().err


def test_a_hub_that_says_nothing_is_given_up_in_time(hub, monkeypatch):
    monkeypatch.setattr(hub, "answer", lambda path, query: time.sleep(1) or (200, {}, b""))
    start = time.monotonic()
    with pytest.raises(MissingResource, match="no answer within"):
        huggingface.fetch(REF, patience=0.2)
    assert time.monotonic() - start < 2


def test_a_file_inside(hub):
    hub.files |= {"tiny.Q8_0.gguf": b"GGUF" * 100, "tiny.Q4_0.gguf": b"GGUF", "sub/config.json": b"{}"}
    path = references.resolve(f"{REF}/tiny.Q8_0.gguf")
    assert path.read_bytes() == b"GGUF" * 100
    assert content(path.parent) == {path.name: b"GGUF" * 100}
    with pytest.raises(BadInput, match=r"(?s)no file 'none.gguf'.*hf:org/tiny/tiny\.Q4_0\.gguf"):
        references.resolve(f"{REF}/none.gguf")


def test_a_folder_inside(hub):
    hub.files |= {"fp32/config.json": b"{}", "fp32/model.safetensors": b"12"}
    assert content(references.resolve(f"{REF}/fp32")) == {"config.json": b"{}", "model.safetensors": b"12"}


def test_what_cannot_be_loaded_is_said_before_anything_is_fetched(hub):
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b""}
    with pytest.raises(BadInput, match=r"(?s)pickled.*zhixing models convert"):
        references.resolve(REF)
    hub.files = {"a.gguf": b"", "b/c.gguf": b""}
    with pytest.raises(BadInput, match=r"(?s)no model.*hf:org/tiny/a\.gguf, hf:org/tiny/b/c\.gguf"):
        references.resolve(REF)
    assert not hub.asked("/resolve/")


@pytest.mark.parametrize(
    "listing", [{"sha": None}, {"sha": "main"}, {"siblings": 3}, {"siblings": [1, {"size": 3}]}, {"sha": "../../x"}]
)
def test_a_listing_that_is_none_is_refused(hub, listing):
    hub.lies["listing"] = listing
    with pytest.raises((MissingResource, BadInput)):
        references.resolve(REF)
    assert not hub.asked("/resolve/")


@pytest.mark.parametrize("name", ["../../evil/config.json", "/etc/config.json", "a\\b/model.safetensors", "..", "a//b"])
def test_a_listing_never_leads_out_of_the_cache(hub, tmp_path, name):
    hub.lies["listing"] = {"siblings": [{"rfilename": name, "size": 2}, {"rfilename": "config.json", "size": 2}]}
    with pytest.raises(BadInput):
        references.resolve(REF)
    assert not hub.asked("/resolve/")


@pytest.mark.parametrize("size", [-1, 1 << 60])
def test_a_listing_with_absurd_sizes_is_refused(hub, size):
    entries = [{"rfilename": name, "size": size, "blobId": COMMIT} for name in ("config.json", WEIGHTS)]
    hub.lies["listing"] = {"siblings": entries}
    with pytest.raises(BadInput, match="the size"):
        references.resolve(REF)


def test_no_room_is_said_beforehand(hub, monkeypatch):
    monkeypatch.setattr("zhixing.core.files.shutil.disk_usage", lambda path: Usage())
    with pytest.raises(MissingResource, match="not enough room"):
        references.resolve(REF)
    assert not hub.asked("/resolve/")


class Usage:
    free = 1000


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_redirects_lead_to_the_web_only(hub, monkeypatch, target):
    monkeypatch.setattr(hub, "answer", lambda path, query: (302, {"Location": target}, b""))
    with pytest.raises(MissingResource, match=r"Redirection|redirected|no connection"):
        references.resolve(REF)
    with pytest.raises(web.WebFault):
        web.request(target, {})


@pytest.mark.parametrize(
    "ref", ["hf:", "hf:a/b@", "hf:../b", "hf:a b/c", "hf:org/name/../x", "hf:org/name@../x", "hf:org/name@main/x.gguf"]
)
def test_malformed_references(ref):
    with pytest.raises(BadInput):
        references.resolve(ref)


def test_without_symbolic_links_the_files_lie_in_the_snapshot(hub, monkeypatch):
    def refuse(self, target):
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    folder = references.resolve(REF)
    assert content(folder) == {name: FILES[name] for name in TAKEN}
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    assert huggingface.cached(REF) is not None


def test_removing_leaves_what_other_revisions_use(hub):
    from zhixing.checkpoints import hubs

    first = references.resolve(REF)
    other = "f" * 40
    (first.parent / other).mkdir()
    (first.parent / other / WEIGHTS).symlink_to((first / WEIGHTS).resolve())
    freed = hubs.remove(huggingface.cached(REF))
    assert freed == sum(len(FILES[name]) for name in TAKEN - {WEIGHTS})
    assert not first.exists()
    assert (first.parent / other / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert huggingface.cached(REF) is None


def test_removing_the_only_revision_leaves_nothing(hub):
    from zhixing.checkpoints import hubs

    folder = references.resolve(REF)
    assert hubs.remove(huggingface.cached(REF)) == sum(len(FILES[name]) for name in TAKEN)
    assert not folder.parents[1].exists()


def test_a_store_behind_the_hub_that_says_nothing_is_given_up_in_time(hub, monkeypatch):
    answer = hub.answer
    monkeypatch.setattr(
        hub, "answer", lambda path, query: (path.startswith("/cdn/") and time.sleep(2)) or answer(path, query)
    )
    start = time.monotonic()
    with pytest.raises(MissingResource, match=r"model\.safetensors: no connection .*no answer within"):
        huggingface.fetch(REF, patience=0.5)
    assert time.monotonic() - start < 2
