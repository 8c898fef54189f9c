"""Model folders: what is written is read again, and whatever is damaged is refused in words, never with a crash."""

import json
import shutil
import struct

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from zhixing.checkpoints.folder import load_folder, save_folder
from zhixing.checkpoints.tensors import read_tensors, write_tensors
from zhixing.core.errors import BadInput, MissingResource, ZhixingError
from zhixing.families import family_named
from zhixing.families.registry import FAMILIES
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer import Transformer
from zhixing.tokenization.train import train_tokenizer

SIZES = {"width": 16, "layers": 2, "heads": 2, "kv_heads": 2, "head_dim": 8, "mlp_width": 24, "context": 16}


def make_model(family, tokenizer, **changes):
    fixed = dict(family_named(family).fixed)
    if family == "gpt2":
        fixed |= {"activation": "gelu_tanh", "norm_eps": 1e-5, "tied": True}
    model = Transformer(TransformerConfig(vocab_size=tokenizer.vocab_size, **SIZES, **fixed, **changes))
    model.initialise(torch.Generator().manual_seed(0))
    return model.eval()


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([], "byte").tokenizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_folder(folder, make_model("llama", tokenizer), tokenizer, "llama", card="# A card\n")
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_round_trip(tmp_path, tokenizer, family):
    model = make_model(family, tokenizer)
    save_folder(tmp_path / "model", model, tokenizer, family, card="# 知行\n")
    opened = load_folder(tmp_path / "model")
    assert opened.family.name == family
    assert opened.tokenizer is not None
    assert opened.tokenizer.fingerprint == tokenizer.fingerprint
    assert not opened.model.training
    theirs, ours = dict(opened.model.named_parameters()), dict(model.named_parameters())
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(opened.model(tokens), model(tokens))
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {
        "README.md", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    end = tokenizer.end_of_text_id
    assert (
        opened.generation["eos_token_id"]
        == end
        == json.loads((tmp_path / "model/config.json").read_text())["eos_token_id"]
    )


def test_other_number_types(saved):
    opened = load_folder(saved, torch.bfloat16)
    assert {parameter.dtype for parameter in opened.model.parameters()} == {torch.bfloat16}


def test_other_weights_than_the_models_own(tmp_path, tokenizer):
    model = make_model("llama", tokenizer)
    average = {name: torch.full_like(parameter, 0.5) for name, parameter in model.named_parameters()}
    save_folder(tmp_path / "model", model, None, "llama", weights=average)
    opened = load_folder(tmp_path / "model")
    assert opened.tokenizer is None
    assert all(bool((parameter == 0.5).all()) for parameter in opened.model.parameters())


def test_a_family_that_cannot_express_the_model_writes_nothing(tmp_path, tokenizer):
    with pytest.raises(BadInput, match="the family 'nanochat' needs"):
        save_folder(tmp_path / "model", make_model("llama", tokenizer), tokenizer, "nanochat")
    assert list(tmp_path.iterdir()) == []


def test_weights_in_several_files(copy):
    tensors = load_file(copy / "model.safetensors")
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, copy / file)
    (copy / "model.safetensors").unlink()
    table = {name: file for file, part in parts.items() for name in part}
    index = copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    assert load_folder(copy).model.config.layers == 2
    (copy / "b.safetensors").unlink()
    with pytest.raises(MissingResource, match=r"'b\.safetensors' is missing"):
        load_folder(copy)
    for text, words in (("{", "not valid JSON"), ("[]", "no 'weight_map'"), ('{"weight_map": {}}', "no 'weight_map'")):
        index.write_text(text)
        with pytest.raises(BadInput, match=words):
            load_folder(copy)


@pytest.mark.parametrize("name", ["/etc/passwd", "../model.safetensors", "inner/x.safetensors"])
def test_an_index_never_leads_out_of_its_folder(copy, name):
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(BadInput, match="outside the folder"):
        load_folder(copy)


def test_pickles_are_never_opened(copy):
    class Trap:
        def __reduce__(self):
            return (copy.joinpath("sprung").touch, ())

    (copy / "model.safetensors").unlink()
    torch.save({"a": Trap()}, copy / "pytorch_model.bin")
    with pytest.raises(BadInput, match="pickled weights"):
        load_folder(copy)
    assert not (copy / "sprung").exists()


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("change", ["missing", "more", "flat", "scalar", "transposed", "int", "empty"])
def test_every_tensor_is_held_against_the_configuration(tmp_path, tokenizer, family, change):
    save_folder(tmp_path / "model", make_model(family, tokenizer), tokenizer, family)
    path = tmp_path / "model" / "model.safetensors"
    whole = load_file(path)
    for name in whole:
        tensors = dict(whole)
        if change == "missing":
            del tensors[name]
        elif change == "more":
            tensors[f"{name}.more"] = torch.ones(3)
        elif change == "transposed" and tensors[name].dim() == 2 and len(set(tensors[name].shape)) == 2:
            tensors[name] = tensors[name].t().contiguous()
        else:
            made = {"flat": torch.ones(7), "scalar": torch.tensor(1.0), "empty": torch.ones(0)}
            tensors[name] = made.get(change, torch.ones(tensors[name].shape, dtype=torch.int32))
        save_file(tensors, path)
        with pytest.raises(BadInput):
            load_folder(tmp_path / "model")


def read_or_refuse(read):
    try:
        return read()
    except ZhixingError as error:
        assert str(error)
        return None


@given(share=st.floats(0, 1, exclude_max=True))
@example(share=0.0)
def test_weights_that_end_anywhere_are_refused(saved, tmp_path_factory, share):
    data = (saved / "model.safetensors").read_bytes()
    path = tmp_path_factory.getbasetemp() / "cut.safetensors"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(BadInput, match="not a whole safetensors file"):
        read_tensors(path)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_flipped_bytes_in_the_header_never_crash(saved, tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "flipped"
    if not folder.exists():
        shutil.copytree(saved, folder)
    content = bytearray((saved / "model.safetensors").read_bytes())
    header = 8 + struct.unpack("<Q", content[:8])[0]
    for place in data.draw(st.lists(st.integers(0, header - 1), min_size=1, max_size=3)):
        content[place] = data.draw(st.integers(0, 255) | st.sampled_from(list(b'0123456789{}[]":,FIBU')))
    (folder / "model.safetensors").write_bytes(content)
    read_or_refuse(lambda: load_folder(folder))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_flipped_bytes_in_the_other_files_never_crash(saved, tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "other"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, folder)
    name = data.draw(
        st.sampled_from(["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"])
    )
    content = bytearray((folder / name).read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=3)):
        content[place] = data.draw(st.integers(0, 255) | st.sampled_from(list(b'0123456789{}[]":,-.e')))
    (folder / name).write_bytes(content)
    read_or_refuse(lambda: load_folder(folder))


JSON = (
    st.none()
    | st.booleans()
    | st.integers(-3, 99)
    | st.floats()
    | st.text(max_size=3)
    | st.lists(st.integers(), max_size=2)
)
FIELDS = [
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "intermediate_size", "max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_parameters", "rope_scaling",
    "attention_dropout", "tie_word_embeddings", "hidden_act", "attention_bias", "layer_types",
    "final_logit_softcapping", "n_embd", "n_head", "n_layer", "n_inner", "n_positions", "layer_norm_epsilon",
    "activation_function", "resid_pdrop",
    "model_type", "sliding_window", "use_sliding_window",
]  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(sorted(FAMILIES)),
    st.dictionaries(st.sampled_from(FIELDS), JSON | st.dictionaries(st.sampled_from(["rope_theta", "type"]), JSON)),
)
def test_any_field_of_any_kind_is_a_configuration_or_a_message(saved, family, changes):
    values = {**json.loads((saved / "config.json").read_text()), "model_type": family, **changes}
    from zhixing.families import family_for_config

    read_or_refuse(lambda: family_for_config(values, "config.json").config_from(values, "config.json"))


def test_writing_says_what_is_wrong_with_the_disk(tmp_path):
    with pytest.raises(MissingResource, match="not there while writing weights"):
        write_tensors(tmp_path / "none" / "x.safetensors", {"a": torch.ones(2)})


def test_what_is_written_is_what_was_given(tmp_path):
    tensors = {"a": torch.arange(6.0).reshape(2, 3).t(), "b": torch.tensor(3, dtype=torch.uint8)}
    write_tensors(tmp_path / "x.safetensors", tensors)
    read = read_tensors(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in tensors.items())
