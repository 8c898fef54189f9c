"""The loop: transformers' greedy text, batches as one by one, streams as whole answers, limits, seeds, interruption."""

import pytest
import torch

from zhixing.core.errors import BadInput
from zhixing.families import FAMILIES
from zhixing.generation import Generator, SamplingOptions
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer import Transformer
from zhixing.tokenization.train import train_tokenizer

TEXTS = ["知之为知之，不知为不知，是知也。\n学而时习之，不亦说乎？\n", "To know is to act, and to act is to know.\n"]
VOCAB = 300


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS * 3, "byte-bpe", VOCAB, special_tokens=["<|endoftext|>"])[0]


def make(family="llama", context=48, vocab=VOCAB, **changes):
    fixed = {**FAMILIES[family].start, **changes}
    config = TransformerConfig(
        vocab_size=vocab, width=32, layers=2, heads=4, kv_heads=4, head_dim=8, mlp_width=48, context=context, **fixed
    )
    model = Transformer(config)
    generator = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    return model.eval()


GREEDY = SamplingOptions(temperature=0, max_tokens=12, end_tokens=())
FAMILY_CASES = {
    "gpt2": {"tied": True, "activation": "gelu_tanh"},
    "llama": {},
    "qwen3": {},
    "nanochat": {"logit_softcap": 15.0},
}


@pytest.mark.parametrize("family", FAMILY_CASES)
@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_greedy_text_is_that_of_transformers(family, penalty, tmp_path):
    transformers = pytest.importorskip("transformers")
    from zhixing.checkpoints.folder import save_folder

    model = make(family, **FAMILY_CASES[family])
    save_folder(tmp_path / "model", model, None, family)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    prompt = [5, 9, 200, 3, 9]
    expected = theirs.generate(
        torch.tensor([prompt]),
        max_new_tokens=20,
        do_sample=False,
        repetition_penalty=penalty,
        eos_token_id=None,
        pad_token_id=0,
    )[0, 5:].tolist()
    options = GREEDY.replace(max_tokens=20, repetition_penalty=penalty)
    assert Generator(model, None).generate([prompt], options)[0].tokens == expected


@pytest.mark.parametrize("family", FAMILY_CASES)
@pytest.mark.parametrize(
    "options", [{"temperature": 0}, {"seed": 3, "top_p": 0.9}, {"temperature": 0, "repetition_penalty": 1.5}]
)
def test_a_batch_of_unequal_prompts_gives_what_each_gives_alone(family, options):
    generator = Generator(make(family, **FAMILY_CASES[family]), None)
    prompts = [[1, 2, 3, 4, 5, 6, 7], [9], [11, 12, 13]]
    chosen = SamplingOptions(max_tokens=15, end_tokens=tuple(range(40)), **options)
    together = generator.generate(prompts, chosen)
    for prompt, answer in zip(prompts, together, strict=True):
        alone = generator.generate([prompt], chosen)[0]
        assert (answer.tokens, answer.finish_reason) == (alone.tokens, alone.finish_reason)


def test_sequences_that_end_early_leave_the_others_alone():
    """One prompt fills the (learned) context and ends; the others go on without it."""
    generator = Generator(make("gpt2", context=12, activation="gelu"), None)
    long, short = list(range(1, 10)), [1, 2]
    together = generator.generate([long, short, short], GREEDY.replace(max_tokens=10))
    assert [len(answer.tokens) for answer in together] == [3, 10, 10]
    assert together[1].tokens == generator.generate([short], GREEDY.replace(max_tokens=10))[0].tokens
    assert "context of 12 tokens is full (prompt 9, answer 3)" in together[0].detail
    assert together[0].finish_reason == together[1].finish_reason == "length"
    assert "max_tokens (10)" in together[1].detail


def test_samples_share_the_prefill_and_repeat_with_the_seed(monkeypatch):
    model = make()
    generator = Generator(model, None)
    rows = []
    original = Transformer.hidden_states
    monkeypatch.setattr(
        Transformer,
        "hidden_states",
        lambda self, tokens, *a, **k: rows.append(tokens.shape) or original(self, tokens, *a, **k),
    )
    options = SamplingOptions(n=4, seed=7, max_tokens=10, end_tokens=())
    first = generator.generate([[1, 2, 3], [4]], options)
    assert rows == [(2, 3)]
    assert [(answer.prompt, answer.sample) for answer in first] == [(p, s) for p in range(2) for s in range(4)]
    assert len({tuple(answer.tokens) for answer in first}) == 8
    again = generator.generate([[4]], options.replace(n=2))
    assert [answer.tokens for answer in again] == [answer.tokens for answer in first[4:6]]


def test_without_a_seed_equal_prompts_differ_and_the_seed_is_told():
    generator = Generator(make(), None)
    options = SamplingOptions(max_tokens=12, end_tokens=())
    one, two = generator.generate([[1, 2], [1, 2]], options)
    assert one.tokens != two.tokens and one.seed != two.seed
    assert generator.generate([[1, 2]], options.replace(seed=two.seed))[0].tokens == two.tokens


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("stop", [(), ("e", "知也"), ("\n",)])
def test_a_stream_is_the_whole_answer_and_cuts_no_character(tokenizer, seed, stop):
    generator = Generator(make(vocab=tokenizer.vocab_size), tokenizer)
    options = SamplingOptions(seed=seed, max_tokens=30, stop=stop)
    stream = generator.stream("知之 to know", options)
    pieces = list(stream)
    whole = generator.generate(["知之 to know"], options)[0]
    assert "".join(pieces) == whole.text == stream.generation.text
    assert stream.generation.tokens == whole.tokens
    assert all(pieces) and not any(text in whole.text for text in stop)
    expected = tokenizer.decode(whole.tokens, skip_special=True)
    if whole.finish_reason == "length":
        assert whole.text == expected
    else:
        assert expected.startswith(whole.text)


def test_an_end_token_ends_the_answer_and_is_not_in_its_text(tokenizer):
    generator = Generator(make(vocab=tokenizer.vocab_size), tokenizer)
    free = generator.generate(["to"], GREEDY)[0]
    end = free.tokens[4]
    answer = generator.generate(["to"], GREEDY.replace(end_tokens=(end,)))[0]
    cut = free.tokens.index(end)
    assert answer.finish_reason == "stop" and str(end) in answer.detail
    assert answer.tokens == free.tokens[: cut + 1]
    assert answer.text == tokenizer.decode(answer.tokens[:-1])


def test_a_prompt_beyond_the_context_is_refused_with_numbers(tokenizer):
    generator = Generator(make(context=8), tokenizer)
    with pytest.raises(
        BadInput, match=r"prompt 2 of 2: the prompt has 8 tokens; the model's context is 8[^\0]*at most 7 tokens"
    ):
        generator.generate([[1] * 7, [1] * 8], GREEDY)
    assert len(generator.generate([[1] * 7], GREEDY)[0].tokens) == 1
    with pytest.raises(BadInput, match="token id 300 is outside of the vocabulary of 300"):
        generator.generate([[VOCAB]], GREEDY)


def test_rotary_models_stop_at_the_context_and_slide_only_when_asked():
    model = make(context=10)
    generator = Generator(model, None)
    stopped = generator.generate([[1, 2, 3]], GREEDY.replace(max_tokens=25))[0]
    assert len(stopped.tokens) == 7 and "context of 10 tokens is full" in stopped.detail
    slid = generator.generate([[1, 2, 3], [4] * 6], GREEDY.replace(max_tokens=25, sliding=True))[0]
    assert len(slid.tokens) == 25 and slid.tokens[:7] == stopped.tokens
    assert slid.tokens == generator.generate([[1, 2, 3]], GREEDY.replace(max_tokens=25, sliding=True))[0].tokens
    # By definition: when ten tokens are there, the newest five are the prompt.
    alone = generator.generate([[1, 2, 3]], GREEDY.replace(max_tokens=25, sliding=True))[0]
    tokens = [1, 2, 3]
    window = tokens[:]
    for _ in range(25):
        with torch.no_grad():
            window.append(int(model(torch.tensor([window]))[0, -1].argmax()))
        tokens.append(window[-1])
        if len(window) > 10:
            window = window[-5:]
    assert alone.tokens == tokens[3:]


def test_an_empty_prompt_says_what_it_started_from(tokenizer):
    answer = Generator(make(vocab=tokenizer.vocab_size), tokenizer).generate([""], GREEDY)[0]
    assert answer.prompt_tokens == 1 and answer.notes == ("the prompt is empty: started from <|endoftext|>",)
    characters = train_tokenizer(["知行\nab"], "character", 100, special_tokens=[])[0]
    answer = Generator(make(vocab=characters.vocab_size), characters).generate([""], GREEDY)[0]
    assert answer.notes == ("the prompt is empty: started from a line end",)
    without = train_tokenizer(["知行ab"], "character", 100, special_tokens=[])[0]
    with pytest.raises(BadInput, match="the prompt is empty"):
        Generator(make(vocab=without.vocab_size), without).generate([""], GREEDY)


def test_logprobs_are_the_models_own():
    model = make()
    answer = Generator(model, None).generate(
        [[1, 2]], SamplingOptions(seed=1, temperature=3.0, max_tokens=5, logprobs=2, end_tokens=())
    )[0]
    with torch.no_grad():
        expected = model(torch.tensor([[1, 2, *answer.tokens]]))[0].log_softmax(-1)
    assert [entry.token for entry in answer.logprobs] == answer.tokens
    for index, entry in enumerate(answer.logprobs):
        row = expected[1 + index]
        assert entry.logprob == pytest.approx(row[entry.token].item(), abs=1e-4)
        assert [token for token, _ in entry.top] == row.topk(2).indices.tolist()


def test_a_custom_rule_ends_the_answer():
    class After:
        def __call__(self, progress):
            return "enough" if len(progress.tokens) == 3 else None

    answer = Generator(make(), None, rules=[After()]).generate([[1]], GREEDY)[0]
    assert (answer.finish_reason, len(answer.tokens)) == ("enough", 3) and "After" in answer.detail


def test_interruption_returns_what_is_there(tokenizer):
    class Interrupt:
        def __call__(self, progress):
            if len(progress.tokens) == 4:
                raise KeyboardInterrupt

    model = make(vocab=tokenizer.vocab_size)
    answers = Generator(model, tokenizer, rules=[Interrupt()]).generate(["to", "know"], GREEDY)
    assert {answer.finish_reason for answer in answers} == {"interrupted"}
    assert answers[0].text == tokenizer.decode(answers[0].tokens) and len(answers[0].tokens) == 4


def test_a_stopped_stream_gives_what_it_held(tokenizer):
    stream = Generator(make(vocab=tokenizer.vocab_size), tokenizer).stream("to", GREEDY.replace(stop=("never seen",)))
    with pytest.raises(BadInput, match="still being written"):
        _ = stream.generation
    first = next(stream)
    rest = stream.stop()
    assert stream.generation.finish_reason == "interrupted" and stream.generation.text == first + rest
    assert list(stream) == []
    with pytest.raises(BadInput, match="n = 2"):
        Generator(make(), None).stream([1], GREEDY.replace(n=2))


def test_a_model_can_be_trained_after_it_wrote():
    """Tables and weights made while writing must not be unfit for gradients; the mode is given back."""
    for owned in (False, True):
        model = make().train()
        Generator(model, None, owned=owned).generate([[1, 2, 3]], GREEDY)
        assert model.training
        tokens = torch.randint(0, VOCAB, (2, 20))
        model.loss_sum(tokens, tokens).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
