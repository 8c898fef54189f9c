"""Adapters against PEFT: ours open there, theirs open here, with the same logits, for plain and fused layouts."""

import json

import pytest
import torch

from zhixing.checkpoints.adapters import is_adapter, load_adapter, merge_adapters, open_adapter, save_adapter
from zhixing.checkpoints.describe import describe
from zhixing.checkpoints.folder import load_folder
from zhixing.checkpoints.opening import open_model
from zhixing.checkpoints.references import resolve
from zhixing.core.errors import BadInput, MissingResource
from zhixing.models.adapters import (
    LowRankSpec,
    activate,
    adapter_names,
    attach,
    attach_prompt,
    deactivated,
    merge,
    prompted,
)
from zhixing.tokenization.adding import with_added_tokens
from zhixing.tokenization.train import train_tokenizer

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

SIZES = {"vocab_size": 97, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
WIDE = SIZES | {"hidden_size": 32, "intermediate_size": 48, "bos_token_id": 1, "eos_token_id": 2}
MAKERS = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**WIDE, num_key_value_heads=2)),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**WIDE, num_key_value_heads=2)),
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    ),
    "phi3": lambda: transformers.Phi3ForCausalLM(
        transformers.Phi3Config(**WIDE, num_key_value_heads=2, pad_token_id=0)
    ),
    "gpt_neox": lambda: transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**WIDE)),
}
FUSED_TARGETS = {"gpt2": ["c_attn", "c_proj", "c_fc"], "phi3": ["qkv_proj", "gate_up_proj", "down_proj"]}
TOKENS = torch.tensor([[5, 11, 80, 3, 3, 42, 7, 19]])


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Tiny models of several families, saved by transformers."""
    root, made = tmp_path_factory.mktemp("bases"), {}
    for name, maker in MAKERS.items():
        torch.manual_seed(len(name))
        made[name] = root / name
        maker().eval().save_pretrained(made[name])
    return made


def randomise(parameters, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        noise = torch.randn(parameter.shape, generator=generator) * 0.1
        parameter.data = noise if parameter.dim() > 1 else parameter.data + noise


def their_logits(base, adapter):
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    model = peft.PeftModel.from_pretrained(model, adapter).eval()
    with torch.no_grad():
        return model(TOKENS).logits


def our_logits(model):
    with torch.no_grad():
        return model.eval()(TOKENS)


@pytest.mark.parametrize("family", MAKERS)
@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_ours_opens_in_peft(bases, tmp_path, family, kind):
    opened = load_folder(bases[family])
    spec = LowRankSpec(rank=3, alpha=7.0, rank_stabilised=kind == "rslora", decomposed=kind == "dora")
    attach(opened.transformer, spec)
    randomise(p for p in opened.model.parameters() if p.requires_grad)
    save_adapter(tmp_path / "a", opened.transformer, opened.family, str(bases[family]))
    expected = our_logits(opened.model)
    torch.testing.assert_close(their_logits(bases[family], tmp_path / "a"), expected, atol=1e-4, rtol=0)
    again = open_adapter(tmp_path / "a")
    torch.testing.assert_close(our_logits(again.model), expected, atol=1e-4, rtol=0)
    assert not torch.allclose(our_logits(load_folder(bases[family]).model), expected, atol=1e-2)


@pytest.mark.parametrize("family", MAKERS)
@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_theirs_opens_here(bases, tmp_path, family, kind):
    base = transformers.AutoModelForCausalLM.from_pretrained(bases[family])
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=FUSED_TARGETS.get(family, "all-linear"), task_type="CAUSAL_LM",
        use_rslora=kind == "rslora", use_dora=kind == "dora", fan_in_fan_out=family == "gpt2",
        rank_pattern={"down_proj": 2} if family == "llama" else {}, alpha_pattern={"o_proj": 3},
    )  # fmt: skip
    model = peft.get_peft_model(base, config).eval()
    randomise((p for p in model.parameters() if p.requires_grad), seed=1)
    with torch.no_grad():
        expected = model(TOKENS).logits
    model.save_pretrained(tmp_path / "theirs")
    opened = load_folder(bases[family])
    load_adapter(opened.transformer, opened.family, tmp_path / "theirs")
    torch.testing.assert_close(our_logits(opened.model), expected, atol=1e-4, rtol=0)
    # And back again: what was fused is fused again, without growing.
    save_adapter(tmp_path / "back", opened.transformer, opened.family, str(bases[family]))
    torch.testing.assert_close(their_logits(bases[family], tmp_path / "back"), expected, atol=1e-4, rtol=0)
    sizes = [sum(f.stat().st_size for f in (tmp_path / n).glob("*.safetensors")) for n in ("theirs", "back")]
    assert sizes[1] <= sizes[0] * 1.1


def test_a_prompt_opens_in_peft_and_theirs_here(bases, tmp_path):
    opened = load_folder(bases["llama"])
    attach_prompt(opened.transformer, torch.randn(5, 32, generator=torch.Generator().manual_seed(3)) * 0.1)
    save_adapter(tmp_path / "p", opened.transformer, opened.family, str(bases["llama"]))
    theirs = their_logits(bases["llama"], tmp_path / "p")
    again = load_folder(bases["llama"])
    load_adapter(again.transformer, again.family, tmp_path / "p")
    table = prompted(again.model)
    with torch.no_grad():
        ours = again.model.eval()(torch.cat((torch.tensor([table.prompt_ids]), TOKENS), dim=1))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_several_adapters_are_switched_weighted_and_merged(bases, tmp_path):
    opened = load_folder(bases["llama"])
    plain = our_logits(opened.model)
    for seed, name in enumerate(("first", "second")):
        attach(opened.transformer, LowRankSpec(rank=2 + seed, alpha=4), name)
        randomise((p for n, p in opened.model.named_parameters() if f"adapters.{name}." in n), seed)
        save_adapter(tmp_path / name, opened.transformer, opened.family, str(bases["llama"]), name=name)
    assert adapter_names(opened.model) == ["first", "second"]
    base = transformers.AutoModelForCausalLM.from_pretrained(bases["llama"])
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "first", adapter_name="first").eval()
    theirs.load_adapter(tmp_path / "second", adapter_name="second")
    with torch.no_grad():
        for name in ("second", "first"):
            theirs.set_adapter(name)
            activate(opened.model, {name: 1.0})
            torch.testing.assert_close(our_logits(opened.model), theirs(TOKENS).logits, atol=1e-4, rtol=0)
        # PEFT's "cat" adds the products themselves; its "linear" adds the factors, which is another model.
        theirs.add_weighted_adapter(["first", "second"], [0.7, 0.4], "both", combination_type="cat")
        theirs.set_adapter("both")
        activate(opened.model, {"first": 0.7, "second": 0.4})
        weighted = our_logits(opened.model)
        torch.testing.assert_close(weighted, theirs(TOKENS).logits, atol=1e-4, rtol=0)
    with deactivated(opened.model):
        torch.testing.assert_close(our_logits(opened.model), plain)
    merge(opened.model)
    assert adapter_names(opened.model) == []
    torch.testing.assert_close(our_logits(opened.model), weighted, atol=1e-4, rtol=0)


@pytest.fixture
def two(bases, tmp_path):
    """Two adapters of one base, the first with a new token and the table that holds it."""
    texts, names = ["what a small text this is"], []
    tokenizer = train_tokenizer(texts, "character", None).tokenizer
    for name, new in (("new", ["<|call|>"]), ("plain", [])):
        opened = load_folder(bases["llama"])
        attach(opened.transformer, LowRankSpec(rank=2))
        table = opened.transformer.embedding.weight
        replaced = {"embedding.weight": torch.cat((table, table[:1]))} if new else {}
        save_adapter(
            tmp_path / name, opened.transformer, opened.family, str(bases["llama"]), replaced=replaced,
            tokenizer=with_added_tokens(tokenizer, new) if new else tokenizer,
        )  # fmt: skip
        names.append(tmp_path / name)
    return names


def test_merging_keeps_the_tokens_of_every_adapter(bases, two, tmp_path):
    for order in (two, two[::-1]):
        merged = merge_adapters(bases["llama"], [(folder, 1.0) for folder in order], tmp_path / "out")
        assert "<|call|>" in merged.tokenizer.vocabulary
    with pytest.raises(BadInput, match="brings whole tables of its own, and so does"):
        merge_adapters(bases["llama"], [(two[0], 1.0), (two[0], 1.0)], tmp_path / "out")
    other = load_folder(bases["llama"])
    attach(other.transformer, LowRankSpec(rank=2))
    save_adapter(
        tmp_path / "odd", other.transformer, other.family, str(bases["llama"]),
        tokenizer=train_tokenizer(["abc"], "character", None).tokenizer,
    )  # fmt: skip
    with pytest.raises(BadInput, match="trained with other tokens"):
        merge_adapters(bases["llama"], [(two[1], 1.0), (tmp_path / "odd", 1.0)], tmp_path / "out")


@pytest.mark.parametrize("share", [float("nan"), float("inf")])
def test_a_share_must_be_a_number(bases, two, tmp_path, share):
    with pytest.raises(BadInput, match="share is"):
        merge_adapters(bases["llama"], [(two[1], share)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_adapter_folder_is_a_model_reference(bases, tmp_path):
    opened = load_folder(bases["llama"])
    attach(opened.transformer, LowRankSpec(rank=2))
    randomise(p for p in opened.model.parameters() if p.requires_grad)
    (tmp_path / "run").mkdir()
    save_adapter(tmp_path / "run" / "model", opened.transformer, opened.family, str(bases["llama"]))
    path = resolve(str(tmp_path / "run"))
    assert is_adapter(path)
    facts = describe(path)
    assert facts.family == f"lora on {bases['llama']}"
    assert facts.parameters == sum(p.numel() for p in opened.model.parameters() if p.requires_grad)
    torch.testing.assert_close(our_logits(open_model(path).model), our_logits(opened.model), atol=1e-4, rtol=0)


def change(folder, **values):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"peft_type": "LOHA"}, "'LOHA'"),
        ({"bias": "all"}, "biases"),
        ({"use_bdlora": True}, "use_bdlora"),
        ({"r": "many"}, "'many'"),
        ({"rank_pattern": {"(a+)+$": 3}}, "only plain names"),
        ({"r": 5}, "rank 5"),
        ({"base_model_name_or_path": None}, "does not name the model"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
    ],
)
def test_what_would_not_be_computed_is_refused(bases, tmp_path, values, said):
    opened = load_folder(bases["llama"])
    attach(opened.transformer, LowRankSpec(rank=2))
    save_adapter(tmp_path / "a", opened.transformer, opened.family, str(bases["llama"]))
    change(tmp_path / "a", **values)
    with pytest.raises(BadInput, match=said.replace("(", r"\(")):
        open_adapter(tmp_path / "a")


def test_an_adapter_of_another_model_is_refused(bases, tmp_path):
    opened = load_folder(bases["llama"])
    attach(opened.transformer, LowRankSpec(rank=2))
    save_adapter(tmp_path / "a", opened.transformer, opened.family, str(bases["gpt_neox"]))
    with pytest.raises(BadInput, match="no linear map in the blocks of this base"):
        open_adapter(tmp_path / "a")
    change(tmp_path / "a", base_model_name_or_path=str(tmp_path / "nowhere"))
    with pytest.raises(MissingResource, match="no such model"):
        open_adapter(tmp_path / "a")


def test_adapters_that_name_each_other_end(bases, tmp_path):
    opened = load_folder(bases["llama"])
    attach(opened.transformer, LowRankSpec(rank=2))
    save_adapter(tmp_path / "a", opened.transformer, opened.family, str(tmp_path / "a"))
    with pytest.raises(BadInput, match="deep"):
        open_adapter(tmp_path / "a")


@pytest.mark.parametrize(
    "shares",
    [{"one": 1.0}, {"one": 0.7}, {"one": 1.0, "two": 1.0}, {"one": 0.7, "two": 0.3}, {"plain": 0.5, "one": -0.5}],
)
def test_shares_of_dora_count_what_each_changes_by_itself(bases, tmp_path, shares):
    """By peft's definition of one adapter: W' = m (W + s B A) / |W + s B A|, row by row; a share of W' - W is added."""
    expected = transformers.AutoModelForCausalLM.from_pretrained(bases["llama"]).eval()
    plain = {name: tensor.clone() for name, tensor in expected.state_dict().items()}
    for number, (kind, share) in enumerate(shares.items()):
        model = transformers.AutoModelForCausalLM.from_pretrained(bases["llama"])
        settings = peft.LoraConfig(
            r=2 + number, lora_alpha=6, target_modules=["q_proj", "down_proj"], use_dora=kind != "plain"
        )
        model = peft.get_peft_model(model, settings)
        randomise([p for name, p in model.named_parameters() if "lora_" in name], len(kind) + number)
        model.save_pretrained(tmp_path / kind)
        for name, module in model.base_model.model.named_modules():
            if not hasattr(module, "lora_A") or "lora_" in name:
                continue
            down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
            whole = plain[f"{name}.weight"] + up @ down * module.scaling["default"]
            if kind != "plain":
                length = module.lora_magnitude_vector["default"].weight
                whole = length[:, None] * whole / whole.norm(dim=1, keepdim=True)
            expected.get_submodule(name).weight.data += share * (whole - plain[f"{name}.weight"]).detach()
    merge_adapters(bases["llama"], [(tmp_path / kind, share) for kind, share in shares.items()], tmp_path / "out")
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        torch.testing.assert_close(merged(TOKENS).logits, expected(TOKENS).logits, atol=1e-5, rtol=0)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "with these adapters folded in" in card
    assert all(f"- `{kind}`" in card for kind in shares)
