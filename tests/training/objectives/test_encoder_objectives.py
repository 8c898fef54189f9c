"""Each objective's loss, batches and measures against `transformers`, seqeval, scikit-learn or a plain formula."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from zhixing.core.errors import BadInput
from zhixing.core.recipe import build_recipe
from zhixing.data.length_batches import RawBatch
from zhixing.data.shapes import Answer, Labelled, Pair, Question, Tagged, Text
from zhixing.data.shapes.records import Misfit
from zhixing.data.shapes.schemes import allowed, chunks, convert
from zhixing.data.word_bounds import WordBounds, words_of_tokens
from zhixing.models.heads import EncoderModel
from zhixing.tokenization.framing import ENCODER_TOKENS, frame_of, framed_as_bert
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.tokenization.train import train_tokenizer
from zhixing.training.kinds.encoder import EncoderMaker
from zhixing.training.objectives import OBJECTIVES, RecordObjective
from zhixing.training.objectives.classification import disagreement
from zhixing.training.objectives.contrastive import info_nce
from zhixing.training.objectives.masked import choose
from zhixing.training.objectives.regression import correlation, ranks
from zhixing.training.objectives.replaced import GeneratorAndDiscriminator, Replaced
from zhixing.training.objectives.tagging import windows
from zhixing.training.resolve import resolve

TEXT = "the cat sees a red dog and runs away from the house in Paris 知行合一 由王阳明提出 the end"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    trained = train_tokenizer([TEXT] * 5, "wordpiece", 120, special_tokens=list(ENCODER_TOKENS))
    return framed_as_bert(trained.tokenizer)


def made(
    name: str, records: list[Any], tokenizer: Tokenizer, task: dict[str, Any] | None = None, context: int = 64
) -> tuple[RecordObjective, RawBatch, EncoderModel]:
    recipe = resolve(
        build_recipe(
            {
                "model": {"depth": 2, "width": 32, "heads": 2, "context": context},
                "task": task or {},
                "train": {"objective": name, "steps": 2, "matmul": "torch"},
            }
        )
    )
    kind = OBJECTIVES[name]
    assert issubclass(kind, RecordObjective)
    objective = kind(recipe)
    for record in records:
        objective.observe(record, False)
    objective.settle()
    objective.attach(tokenizer, context)
    examples = [example for record in records for example in objective.encode(record).examples]
    model = EncoderMaker().begin(recipe, tokenizer, objective, None).model
    wrapped = objective.wrap(model, True)
    return objective, RawBatch(examples, 5), wrapped.eval()  # type: ignore[return-value]


def published(model: EncoderModel, kind: str, folder: Any) -> Any:
    """Opens a network as `transformers` does."""
    import transformers

    from zhixing.checkpoints.encoder_folder import save_encoder

    save_encoder(folder, model, None, "bert")
    return getattr(transformers, kind).from_pretrained(folder).eval()


def padded(examples: list[Any]) -> dict[str, torch.Tensor]:
    longest = max(len(example["tokens"]) for example in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    types, mask = ids.clone(), ids.clone()
    for row, example in enumerate(examples):
        count = len(example["tokens"])
        ids[row, :count] = torch.from_numpy(example["tokens"].astype(np.int64))
        if len(example.get("types", ())):
            types[row, :count] = torch.from_numpy(example["types"].astype(np.int64))
        mask[row, :count] = 1
    return {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}


LABELLED = [Labelled("the cat sees", "b"), Labelled("a red dog", "a", second="the house"), Labelled("the end", "b")]


def test_classification_is_transformers_cross_entropy(tokenizer: Tokenizer, tmp_path: Any) -> None:
    objective, raw, model = made("classification", LABELLED, tokenizer)
    batch = objective.to_device(raw, CPU)
    theirs = published(model, "BertForSequenceClassification", tmp_path / "m")
    with torch.no_grad():
        expected = theirs(**padded(raw.examples), labels=torch.tensor([1, 0, 1])).loss * 3
        assert objective.loss_sum(model, batch) == pytest.approx(float(expected), rel=1e-5)
    assert objective.references(raw.examples) == ["b", "a", "b"]


def test_weights_and_focal_loss_and_smoothing(tokenizer: Tokenizer) -> None:
    from sklearn.utils.class_weight import compute_class_weight

    scores_of = {}
    for name, task in {
        "plain": {}, "balanced": {"class_weights": "balanced"}, "focal": {"focal": 2.0},
        "named": {"class_weights": {"a": 3.0}}, "smooth": {"label_smoothing": 0.2},
    }.items():  # fmt: skip
        objective, raw, model = made("classification", LABELLED, tokenizer, task)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.train()
        batch = objective.to_device(raw, CPU)
        with torch.no_grad():
            scores_of[name] = (objective.loss_sum(model, batch), model(batch.texts))
    _, scores = scores_of["plain"]
    losses = F.cross_entropy(scores, torch.tensor([1, 0, 1]), reduction="none")
    weights = torch.tensor(compute_class_weight("balanced", classes=np.array(["a", "b"]), y=["b", "a", "b"]))
    assert scores_of["balanced"][0] == pytest.approx(float((losses * weights[torch.tensor([1, 0, 1])]).sum()), rel=1e-5)
    assert scores_of["focal"][0] == pytest.approx(float((losses * (1 - torch.exp(-losses)) ** 2).sum()), rel=1e-4)
    assert scores_of["named"][0] == pytest.approx(float((losses * torch.tensor([1.0, 3.0, 1.0])).sum()), rel=1e-5)
    logs = F.log_softmax(scores, 1)
    smooth = -(
        0.9 * logs.gather(1, torch.tensor([[1], [0], [1]])) + 0.1 * logs.gather(1, torch.tensor([[0], [1], [0]]))
    )
    assert scores_of["smooth"][0] == pytest.approx(float(smooth.sum()), rel=1e-5)


def test_several_labels(tokenizer: Tokenizer) -> None:
    records = [Labelled("the cat", ("a", "c")), Labelled("a dog", ()), Labelled("the end", ("b",))]
    objective, raw, model = made("classification", records, tokenizer)
    batch = objective.to_device(raw, CPU)
    wanted = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0]])
    with torch.no_grad():
        expected = F.binary_cross_entropy_with_logits(model(batch.texts), wanted, reduction="sum")
        assert objective.loss_sum(model, batch) == pytest.approx(float(expected), rel=1e-5)
    assert objective.references(raw.examples) == [["a", "c"], [], ["b"]]


@pytest.mark.parametrize("several", [False, True])
def test_disagreement_is_the_mean_of_both_divergences(several: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(4, 3, generator=generator) for _ in range(2))
    if several:
        both = [torch.stack((torch.sigmoid(x), 1 - torch.sigmoid(x)), -1) for x in (one, other)]
    else:
        both = [torch.softmax(x, -1) for x in (one, other)]
    p, q = both
    expected = ((p * (p / q).log()).sum() + (q * (q / p).log()).sum()) / 2
    assert float(disagreement(one, other, several)) == pytest.approx(float(expected), rel=1e-5)


def test_regression_starts_at_the_mean_and_measures_as_scipy(tokenizer: Tokenizer) -> None:
    stats = pytest.importorskip("scipy.stats")
    records = [Labelled("the cat", "10"), Labelled("a dog", "12.5"), Labelled("the end", "30")]
    objective, raw, model = made("regression", records, tokenizer)
    batch = objective.to_device(raw, CPU)
    with torch.no_grad():
        loss = float(objective.loss_sum(model, batch)) / 3
    assert loss == pytest.approx(1.0, abs=0.2)  # always giving the mean costs one variance
    a, b = np.array([1.0, 2, 2, 5, 3]), np.array([2.0, 1, 4, 4, 3])
    assert correlation(ranks(a), ranks(b)) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert correlation(a, b) == pytest.approx(stats.pearsonr(a, b).statistic)
    with pytest.raises(Misfit, match='"good" is no number'):
        objective.observe(Labelled("x", "good"), False)


SENTENCES = [
    Tagged(("the", "cat", "Paris"), ("O", "O", "I-LOC")),
    Tagged(("王", "阳", "明", "runs"), ("B-PER", "I-PER", "I-PER", "O")),
]


def test_tagging_is_transformers_loss_on_first_tokens(tokenizer: Tokenizer, tmp_path: Any) -> None:
    objective, raw, model = made("tagging", SENTENCES, tokenizer)
    assert objective.facts()["labels"] == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    batch = objective.to_device(raw, CPU)
    inputs = padded(raw.examples)
    labels = torch.full_like(inputs["input_ids"], -100)
    for row, example in enumerate(raw.examples):
        labels[row, example["words"]] = torch.from_numpy(example["tags"].astype(np.int64))
        for place, word in zip(example["words"], SENTENCES[row].tokens, strict=True):
            assert tokenizer.encode(word)[0] == example["tokens"][place]
    theirs = published(model, "BertForTokenClassification", tmp_path / "m")
    with torch.no_grad():
        expected = theirs(**inputs, labels=labels).loss * batch.target_count
        assert objective.loss_sum(model, batch) == pytest.approx(float(expected), rel=1e-5)
    assert objective.references(raw.examples)[0] == ["O", "O", "B-LOC"]


def test_a_crf_never_writes_what_the_scheme_forbids(tokenizer: Tokenizer) -> None:
    objective, raw, model = made("tagging", SENTENCES, tokenizer, {"crf": True, "scheme": "BIOES"})
    with torch.no_grad():
        model.head.out.weight.normal_(std=3.0)  # type: ignore[union-attr, union-attr]
        batch = objective.to_device(raw, CPU)
        loss = objective.loss_sum(model, batch)
        tags = objective.predict(model, batch)
    assert torch.isfinite(loss)
    labels = objective.facts()["labels"]
    follows, first, last = allowed(labels)
    for sentence in tags:
        numbers = [labels.index(tag) for tag in sentence]
        assert first[numbers[0]]
        assert last[numbers[-1]]
        assert all(follows[a][b] for a, b in pairwise(numbers))
        assert convert(sentence, "BIOES") == sentence


@given(st.lists(st.integers(1, 6), max_size=40), st.integers(6, 20), st.integers(0, 8))
def test_windows_ask_about_every_word_once(lengths: list[int], room: int, around: int) -> None:
    asked: list[int] = []
    for begin, end, first, last in windows(lengths, room, around):
        assert begin <= first < last <= end
        assert sum(lengths[begin:end]) <= room
        asked += range(first, last)
    assert asked == list(range(len(lengths)))


def test_long_sentences_are_joined_again(tokenizer: Tokenizer) -> None:
    long = Tagged(("the", "cat") * 30, ("O", "B-X") * 30)
    objective, raw, _ = made("tagging", [long], tokenizer, context=16)
    assert len(raw.examples) > 3
    right = objective.references(raw.examples)
    found, joined = objective.gather(right, right, [0] * len(raw.examples))
    assert joined == [list(long.tags)] == found


def test_tags_that_are_classes_and_tags_that_are_wrong(tokenizer: Tokenizer) -> None:
    objective, _, _ = made("tagging", [Tagged(("the", "cat"), ("DET", "NOUN"))] * 3, tokenizer)
    assert objective.measured() == ("accuracy", "macro_f1")
    objective, _, _ = made("tagging", SENTENCES, tokenizer)
    with pytest.raises(Misfit, match=r"'X-PER' is not a tag \(at the word \"cat\"\)"):
        objective.observe(Tagged(("the", "cat"), ("O", "X-PER")), True)
    with pytest.raises(Misfit, match="unknown label"):
        objective.observe(Tagged(("the",), ("B-ORG",)), True)


def test_allowed_transitions_keep_chunks(tokenizer: Tokenizer) -> None:
    labels = ["O", "B-A", "I-A", "B-B", "I-B"]
    follows, first, _ = allowed(labels)
    for one, before in enumerate(labels):
        for other, after in enumerate(labels):
            legal = chunks([before, after]) == chunks(convert([before, after])) and convert([before, after])[1] == after
            assert follows[one][other] == (legal or (before[:1] == "I" and after == f"I{before[1:]}"))
    assert first == [True, True, False, True, False]


def question(context: str, answer: str | None) -> Question:
    answers = () if answer is None else (Answer(answer, context.index(answer)),)
    return Question(context, "the cat", answers)


def test_span_is_transformers_loss_and_finds_its_place(tokenizer: Tokenizer, tmp_path: Any) -> None:
    records = [question(TEXT, "王阳明"), question(TEXT, "red dog"), question(TEXT, None)]
    objective, raw, model = made("span", records, tokenizer, {"stride": 4}, context=20)
    assert len(raw.examples) > 6
    for example in raw.examples:
        first, last = example["ends"]
        if last:
            offsets = example["offsets"].reshape(-1, 2)
            begin = offsets[first - example["context"][0]][0]
            end = offsets[last - example["context"][0]][1]
            assert TEXT[begin:end] in ("王阳明", "red dog")
    assert sum(bool(example["ends"][1]) for example in raw.examples) >= 2
    batch = objective.to_device(raw, CPU)
    theirs = published(model, "BertForQuestionAnswering", tmp_path / "m")
    ends = torch.from_numpy(np.stack([e["ends"] for e in raw.examples]).astype(np.int64))
    inputs = padded(raw.examples)
    with torch.no_grad():
        out = theirs(**inputs)
        losses = []
        for scores, side in ((out.start_logits, 0), (out.end_logits, 1)):
            scores = scores.masked_fill(inputs["attention_mask"] == 0, -torch.inf)
            losses.append(F.cross_entropy(scores, ends[:, side], reduction="sum"))
        assert objective.loss_sum(model, batch) == pytest.approx(float(sum(losses)) / 2, rel=1e-5)
        guesses = objective.predict(model, batch)
    assert all(guess.text in TEXT for guess in guesses)
    assert objective.measured() == ("squad2_f1", "squad2_em")


def test_span_refuses_answers_that_are_not_there(tokenizer: Tokenizer) -> None:
    objective, _, _ = made("span", [question(TEXT, "cat")], tokenizer)
    with pytest.raises(Misfit, match="does not stand at 3"):
        objective.observe(Question(TEXT, "who", (Answer("cat", 3),)), False)
    with pytest.raises(Misfit, match="is no part of the text"):
        objective.observe(Question(TEXT, "who", (Answer("zebra", None),)), False)


def test_masked_hides_80_10_10_and_scores_as_transformers(tokenizer: Tokenizer, tmp_path: Any) -> None:
    objective, raw, model = made("masked", [Text(TEXT)] * 400, tokenizer)
    batch = objective.to_device(raw, CPU)
    total = sum(int((example["words"] >= 0).sum()) for example in raw.examples)
    assert batch.target_count / total == pytest.approx(0.15, abs=0.02)
    seen = batch.texts.tokens[batch.hidden]
    original = torch.cat([torch.from_numpy(e["tokens"].astype(np.int64)) for e in raw.examples])
    assert torch.equal(original[batch.hidden], batch.wanted)
    untouched = torch.ones(len(original), dtype=torch.bool)
    untouched[batch.hidden] = False
    assert torch.equal(original[untouched], batch.texts.tokens[untouched])
    assert float((seen == objective.mask).float().mean()) == pytest.approx(0.8, abs=0.02)  # type: ignore[attr-defined]
    assert float((seen == batch.wanted).float().mean()) == pytest.approx(0.1, abs=0.02)
    again = objective.to_device(raw, CPU)
    assert torch.equal(batch.texts.tokens, again.texts.tokens)
    assert not torch.equal(batch.texts.tokens, objective.to_device(RawBatch(raw.examples, 6), CPU).texts.tokens)
    few = RawBatch(raw.examples[:3], 7)
    batch = objective.to_device(few, CPU)
    theirs = published(model, "BertForMaskedLM", tmp_path / "m")
    rows = [{"tokens": part.numpy()} for part in batch.texts.split(batch.texts.tokens)]
    inputs = padded(rows)
    with torch.no_grad():
        logits = theirs(**inputs).logits[inputs["attention_mask"].bool()][batch.hidden]
        expected = F.cross_entropy(logits, batch.wanted, reduction="sum")
        assert objective.loss_sum(model, batch) == pytest.approx(float(expected), rel=1e-5)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=30), st.integers(0, 2**60))
def test_words_are_chosen_whole(sizes: list[int], key: int) -> None:
    words = np.array([-1, *np.repeat(np.arange(len(sizes)), sizes).tolist(), -1], np.int32)
    chosen = choose(words, 0.3, True, np.random.default_rng(key))
    numbers = set(words[chosen].tolist())
    assert len(chosen)
    assert -1 not in numbers
    assert sorted(chosen.tolist()) == [place for place, word in enumerate(words.tolist()) if word in numbers]
    assert len(choose(words, 0.3, False, np.random.default_rng(key))) == max(1, round(0.3 * sum(sizes)))


def test_chinese_words_stick_together_and_others_end_at_spaces() -> None:
    generator = np.random.default_rng(0)
    vocabulary = ["葡萄", "蝴蝶", *"人有好的在了大小上下来去天地日月水火"]
    bounds = WordBounds()
    for _ in range(300):
        bounds.observe("".join(generator.choice(vocabulary, 12)))
    bounds.settle()
    assert {"葡萄", "蝴蝶"} <= bounds.sticky
    text = "人有葡萄 red dog's蝴蝶"
    numbers = bounds.numbers(text)
    words: dict[int, str] = {}
    for number, character in zip(numbers, text, strict=True):
        words[number] = words.get(number, "") + character
    assert [word.strip() for word in words.values()] == ["人", "有", "葡萄", "red", "dog", "'", "s", "蝴蝶"]
    assert words_of_tokens([(2, 3), (3, 4), (4, 6)], numbers) == [2, 2, 3]


def test_replaced_shares_tables_and_publishes_the_discriminator(tokenizer: Tokenizer) -> None:
    objective, raw, model = made("replaced", [Text(TEXT)] * 8, tokenizer)
    assert isinstance(objective, Replaced)
    assert isinstance(model, GeneratorAndDiscriminator)
    assert model.generator.encoder.embedding.weight is model.discriminator.encoder.embedding.weight
    assert objective.published(model) is model.discriminator
    batch = objective.to_device(raw, CPU)
    loss = objective.loss_sum(model, batch)
    assert torch.equal(loss, objective.loss_sum(model, batch))  # measuring draws the same words each time
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    per_target = float(loss.detach()) / batch.target_count
    assert per_target == pytest.approx(np.log(tokenizer.vocab_size) + 50 * np.log(2), rel=0.1)


def test_info_nce_is_the_plain_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(8, 5, generator=generator)  # three pairs and two hard negatives
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    total = 0.0
    for pair in range(3):
        scores = [float(unit[pair] @ unit[other]) / 0.1 for other in range(3, 8)]
        total += float(np.log(np.sum(np.exp(scores)))) - scores[pair]
        scores = [float(unit[3 + pair] @ unit[other]) / 0.1 for other in range(3)]
        total += float(np.log(np.sum(np.exp(scores)))) - scores[pair]
    assert float(info_nce(vectors, 3, 0.1)) == pytest.approx(total / 2, rel=1e-5)


def test_contrastive_measures_and_sizes(tokenizer: Tokenizer) -> None:
    pairs = [Pair("the cat", "a red dog"), Pair("the end", "Paris"), Pair("the house", "知行合一")]
    objective, raw, model = made("contrastive", pairs, tokenizer, {"matryoshka": [8, 16]})
    batch = objective.to_device(raw, CPU)
    with torch.no_grad():
        vectors = model(batch.texts)
        losses = [info_nce(vectors[:, :size], 3, 0.05) for size in (8, 16, 32)]
        assert float(objective.loss_sum(model, batch)) == pytest.approx(float(sum(losses)) / 3, rel=1e-5)
        found = objective.predict(model, batch)
    for (one, other), index in zip(found, range(3), strict=True):
        assert torch.allclose(torch.from_numpy(one), vectors[index])
        assert torch.allclose(torch.from_numpy(other), vectors[3 + index])
    perfect = [(np.eye(4)[i], np.eye(4)[i]) for i in range(4)]
    assert objective.own_measures(0.0, perfect, []) == {"mrr": 1.0, "recall@1": 1.0}
    with pytest.raises(BadInput, match="no leading 99"):
        made("contrastive", pairs, tokenizer, {"matryoshka": [99]})


def test_frames_are_those_of_transformers(tokenizer: Tokenizer, tmp_path: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    frame = frame_of(tokenizer)
    one, other = tokenizer.encode("the cat"), tokenizer.encode("red dog")
    assert frame.single(one) == theirs("the cat")["input_ids"]
    encoded = theirs("the cat", "red dog")
    assert frame.pair(one, other)[0] == encoded["input_ids"]
    assert frame.pair_room(10) == 7
