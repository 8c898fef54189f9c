"""The loop: it learns, accumulation changes nothing, a restored state continues bit for bit, bad losses stop it."""

import pytest
import torch

from zhixing.training.prove import copy_state

from .conftest import tiny_recipe, tiny_store, tiny_trainer

VARIANTS = {
    "muon": {},
    "adamw": {"optimizer": {"name": "adamw", "learning_rate": 1e-2}},
    "accumulate": {"accumulate": 3},
    "dropout": {"model": {"dropout": 0.2}},
    "average": {"average_decay": 0.9},
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
    "checkpointing": {"checkpoint_activations": True},
    "checkpointing large passes": {"checkpoint_activations": 40},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_learns(make_trainer, variant):
    trainer = make_trainer(**VARIANTS[variant], steps=60)
    losses = [trainer.step().loss for _ in range(60)]
    assert losses[0] == pytest.approx(3.69, abs=0.15)  # ln(40): the start knows nothing
    assert sum(losses[-10:]) / 10 < 0.6 * losses[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_restored_state_continues_bit_for_bit(make_trainer, variant):
    trainer = make_trainer(**VARIANTS[variant])
    for _ in range(7):
        trainer.step()
    state = copy_state(trainer.capture())
    expected = [trainer.step().loss for _ in range(6)]
    other = make_trainer(**VARIANTS[variant])
    other.restore(state)
    assert [other.step().loss for _ in range(6)] == expected
    for a, b in zip(trainer.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)


def losses_of(batch, accumulate, within_documents=False):
    recipe = tiny_recipe(batch_size=batch, accumulate=accumulate, clip=None)
    recipe.data.within_documents = within_documents
    trainer = tiny_trainer(recipe)
    return [trainer.step().loss for _ in range(6)]


@pytest.mark.parametrize("within_documents", [False, True])
def test_accumulation_equals_one_large_batch(within_documents):
    # Within documents the micro-batches differ in their number of targets, which is where per-batch means go wrong.
    whole = losses_of(8, 1, within_documents)
    assert losses_of(4, 2, within_documents) == pytest.approx(whole, rel=2e-4)
    assert losses_of(1, 8, within_documents) == pytest.approx(whole, rel=2e-4)


def test_a_loss_that_is_not_a_number_stops_before_the_weights_change(make_trainer):
    trainer = make_trainer()
    trainer.step()
    with torch.no_grad():
        trainer.model.embedding.weight[:] = float("nan")
    before = trainer.model.blocks[0].mlp.up.weight.detach().clone()
    result = trainer.step()
    assert result.problem is not None
    assert "nan" in result.problem
    assert trainer.done == 1
    assert torch.equal(trainer.model.blocks[0].mlp.up.weight, before)


def test_a_spike_stops(make_trainer):
    trainer = make_trainer(steps=100, spike=1.5)
    while trainer.done < 60:
        assert trainer.step().problem is None
    with torch.no_grad():
        trainer.model.head.weight.mul_(-1)
    result = trainer.step()
    assert result.problem is not None
    assert "jumped" in result.problem


def test_averaged_weights_are_used_and_put_back(make_trainer):
    trainer = make_trainer(average_decay=0.9)
    for _ in range(5):
        trainer.step()
    own = trainer.model.head.weight.detach().clone()
    with trainer.averaged_weights():
        assert not torch.equal(trainer.model.head.weight, own)
        assert torch.equal(trainer.model.head.weight, trainer.average["head.weight"])
    assert torch.equal(trainer.model.head.weight, own)


@pytest.mark.slow
def test_compiled_training_gives_the_same_losses():
    pytest.importorskip("torch._inductor")
    from shutil import which

    if which("g++") is None and which("clang++") is None:
        pytest.skip("no C++ compiler on this machine")
    plain, compiled = tiny_trainer(tiny_recipe()), tiny_trainer(tiny_recipe(compile=True))
    for _ in range(3):
        assert compiled.step().loss == pytest.approx(plain.step().loss, rel=1e-3)


def test_steps_depend_on_the_seed():
    first, second = tiny_trainer(tiny_recipe(seed=1)), tiny_trainer(tiny_recipe(seed=2))
    store = tiny_store()
    assert first.sampler.next().tokens.tolist() != second.sampler.next().tokens.tolist()
    assert len(store) == 2000
