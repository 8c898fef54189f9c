"""Every encoder family and head against `transformers`: scores and gradients of tiny random models, both ways."""

import json

import pytest
import torch

from zhixing.checkpoints.encoder_folder import is_encoder, load_encoder, save_encoder
from zhixing.core.errors import BadInput, ZhixingError
from zhixing.models.ragged import Ragged

transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 24, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
CONFIGS = {
    "Bert": ("BertConfig", SMALL),
    "Roberta": ("RobertaConfig", SMALL),
    "Electra": ("ElectraConfig", {**SMALL, "embedding_size": 16}),
    "DistilBert": (
        "DistilBertConfig",
        {"vocab_size": 61, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 24,
         "dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0},
    ),
}  # fmt: skip
HEADS = ["Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"]
CASES = [(family, head) for family in CONFIGS for head in HEADS] + [("Electra", "ForPreTraining")]
SEQUENCES = [[5, 9, 33, 60, 7], [3] * 9, list(range(3, 12)), [44], [8, 7]]


def make(family, head, folder, **changes):
    kind, options = CONFIGS[family]
    torch.manual_seed(3)
    options = {**options, **changes, "num_labels": 2 if head == "ForQuestionAnswering" else 3}
    model = getattr(transformers, family + head)(getattr(transformers, kind)(**options)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return model


def their_scores(model, head, sequences):
    """Padded batch and mask in, the scores of what is no padding out."""
    longest = max(map(len, sequences))
    padding = model.config.pad_token_id
    tokens = torch.tensor([[*sequence, *[padding] * (longest - len(sequence))] for sequence in sequences])
    mask = torch.tensor([[1] * len(sequence) + [0] * (longest - len(sequence)) for sequence in sequences])
    out = model(input_ids=tokens, attention_mask=mask)
    if head == "ForQuestionAnswering":
        scores = torch.stack((out.start_logits, out.end_logits), -1)
    else:
        scores = out.last_hidden_state if head == "Model" else out.logits
    return scores if head == "ForSequenceClassification" else scores[mask.bool()]


@pytest.fixture(params=CASES, ids=["-".join(case) for case in CASES])
def published(request, tmp_path):
    family, head = request.param
    return head, tmp_path / "published", make(family, head, tmp_path / "published")


def test_their_folder_gives_the_same_scores_here(published):
    head, folder, theirs = published
    opened = load_encoder(folder)
    assert not opened.notes
    with torch.no_grad():
        expected, found = their_scores(theirs, head, SEQUENCES), opened.model(Ragged.of(SEQUENCES))
    assert float(expected.abs().max()) > 0.05
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_our_folder_opens_there_with_the_same_scores(published, tmp_path):
    head, folder, theirs = published
    opened = load_encoder(folder)
    save_encoder(tmp_path / "ours", opened.model, None, opened.family.name, unused=opened.unused)
    again, report = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.no_grad():
        expected, found = (their_scores(model.eval(), head, SEQUENCES) for model in (theirs, again))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_gradients_equal_theirs(published):
    head, folder, theirs = published
    opened = load_encoder(folder)
    weights = torch.randn(1, generator=torch.Generator().manual_seed(0))
    (their_scores(theirs, head, SEQUENCES).sin() * weights).sum().backward()
    (opened.model(Ragged.of(SEQUENCES)).sin() * weights).sum().backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    expected, _ = opened.family.weights_from(gradients, opened.model.head_config.kind, "gradients")
    for name, parameter in opened.model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], atol=2e-4, rtol=1e-3, msg=name)
    assert len([name for name in expected if "encoder.blocks" in name]) > 20


def test_segments_have_their_own_embedding(tmp_path):
    theirs = make("Bert", "Model", tmp_path)
    types = [[0, 0, 1, 1, 1]]
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor([SEQUENCES[0]]), token_type_ids=torch.tensor(types)).last_hidden_state
        found = load_encoder(tmp_path).model(Ragged.of(SEQUENCES[:1], types))
    torch.testing.assert_close(found, expected[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", CONFIGS)
def test_an_untied_masked_head(family, tmp_path):
    theirs = make(family, "ForMaskedLM", tmp_path, tie_word_embeddings=False)
    with torch.no_grad():
        found = load_encoder(tmp_path).model(Ragged.of(SEQUENCES))
        torch.testing.assert_close(found, their_scores(theirs, "ForMaskedLM", SEQUENCES), atol=1e-4, rtol=1e-4)


def test_a_pretrained_encoder_gets_a_new_head(tmp_path):
    make("Bert", "Model", tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values |= {"architectures": ["BertForTokenClassification"], "id2label": {"0": "O", "1": "B-X"}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    opened = load_encoder(tmp_path)
    assert "untrained" in opened.notes[0]
    assert opened.model.head_config.labels == ("O", "B-X")
    assert opened.model(Ragged.of(SEQUENCES)).shape == (26, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "is_decoder"),
        ({"architectures": ["BertForNextSentencePrediction"]}, "BertForNextSentencePrediction"),
        ({"hidden_act": "mish"}, "mish"),
        ({"something_new": 3}, "something_new"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"num_attention_heads": 5}, "shape"),
        ({"id2label": {"0": "a", "7": "b"}, "architectures": ["BertForTokenClassification"]}, "id2label"),
        ({"model_type": "berd"}, "berd"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(tmp_path, change, message):
    make("Bert", "Model", tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, **change}))
    with pytest.raises(BadInput, match=message):
        load_encoder(tmp_path)


def sentence_folder(tmp_path, pooling, modules=("Transformer", "Pooling", "Normalize")):
    make("Bert", "Model", tmp_path)
    package = "sentence_transformers.models"
    types = [
        {"idx": i, "name": str(i), "path": "" if i == 0 else f"{i}_{kind}", "type": f"{package}.{kind}"}
        for i, kind in enumerate(modules)
    ]
    (tmp_path / "modules.json").write_text(json.dumps(types))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 20, "do_lower_case": false}')
    return tmp_path


def test_a_sentence_folder_pools_and_is_written_back(tmp_path):
    folder = sentence_folder(tmp_path / "a", {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True})
    opened = load_encoder(folder)
    assert is_encoder(folder)
    assert opened.longest == 20
    vectors = opened.model(Ragged.of(SEQUENCES))
    with torch.no_grad():
        theirs = transformers.BertModel.from_pretrained(folder).eval()
        means = [theirs(input_ids=torch.tensor([sequence])).last_hidden_state[0].mean(0) for sequence in SEQUENCES]
    expected = torch.nn.functional.normalize(torch.stack(means), dim=1)
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-4)
    save_encoder(tmp_path / "b", opened.model, None, "bert", longest=opened.longest, unused=opened.unused)
    again = load_encoder(tmp_path / "b")
    assert again.longest == 20
    torch.testing.assert_close(again.model(Ragged.of(SEQUENCES)), vectors)


@pytest.mark.parametrize(
    ("pooling", "modules"),
    [
        ({}, ("Transformer", "Pooling")),
        ({"pooling_mode_weightedmean_tokens": True}, ("Transformer", "Pooling")),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("Transformer", "Pooling")),
        ({"pooling_mode_mean_tokens": True}, ("Transformer", "Pooling", "Dense")),
        ({"pooling_mode_mean_tokens": True}, ("Pooling", "Transformer")),
    ],
)
def test_other_modules_are_refused(tmp_path, pooling, modules):
    with pytest.raises(ZhixingError, match="support"):
        load_encoder(sentence_folder(tmp_path, pooling, modules))
