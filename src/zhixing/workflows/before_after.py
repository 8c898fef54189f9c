"""Whether tuning has made a model better: the loss of each held-out record before the first step and after the last,
held against each other by paired tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zhixing.data.length_batches import RawBatch
from zhixing.evaluation.metrics.language import from_sums
from zhixing.evaluation.metrics.significance import Comparison, compare_scores
from zhixing.models.ragged import batches_by_length
from zhixing.training.objectives.chat import ChatTurns
from zhixing.training.run import Run
from zhixing.training.validation import TOKENS_AT_ONCE, ExampleValidation
from zhixing.workflows.console import say

Sums = list[tuple[float, int]]
"""The summed loss of each record in nats, and its number of targets."""


@torch.no_grad()
def record_sums(model: Any, objective: ChatTurns, validation: ExampleValidation, device: torch.device) -> Sums:
    """Returns the loss of each held-out example."""
    was_training = model.training
    model.eval()
    found: Sums = [(0.0, 0)] * len(validation.indices)
    lengths = validation.store.lengths[validation.indices].tolist()
    for group in batches_by_length(lengths, TOKENS_AT_ONCE):
        places = validation.indices[group]
        batch = objective.to_device(RawBatch(validation.store.take(places), int(places[0])), device)
        losses: Tensor = model.losses(batch.tokens, batch.targets, batch.segments)
        owner, wanted = batch.segments[0], (batch.targets[0] >= 0).double()
        sums = torch.zeros(len(places), dtype=torch.float64, device=device).index_add_(0, owner, losses[0].double())
        counts = torch.zeros_like(sums).index_add_(0, owner, wanted)
        for place, nats, count in zip(group, sums.tolist(), counts.tolist(), strict=True):
            found[place] = (nats, int(count))
    model.train(was_training)
    return found


def remember_start(run: Run, model: nn.Module, objective: ChatTurns, validation: ExampleValidation) -> None:
    """Measures every held-out record before the first step, once; resuming finds it in the run's facts."""
    if "before" in run.facts():
        return
    sums = record_sums(model, objective, validation, torch.device(run.recipe.train.device))
    nats, targets = sum(one for one, _ in sums), sum(count for _, count in sums)
    loss = nats / max(1, targets)
    run.log("validation", step=0, loss=loss, tokens=0, seconds=0.0)
    run.add_facts(before={"loss": loss, "records": sums})
    say(f"Before: loss {loss:.4f} on {len(sums)} held-out records")


def compare_with_start(
    run: Run, model: nn.Module, objective: ChatTurns, validation: ExampleValidation
) -> Comparison | None:
    """Compares every held-out record with what it was at the start, by paired bootstrap and randomisation.

    Returns:
        The comparison of perplexities; None where the run has no start to compare with.
    """
    before = run.facts().get("before")
    if not isinstance(before, dict) or len(before.get("records", ())) != len(validation.indices):
        return None
    after = record_sums(model, objective, validation, torch.device(run.recipe.train.device))
    first, second = (
        from_sums([(nats, count, 1.0) for nats, count in sums], ["perplexity"])[0]
        for sums in (before["records"], after)
    )
    found = compare_scores(first, second)
    loss = sum(nats for nats, _ in after) / max(1, sum(count for _, count in after))
    run.add_facts(improvement={**found.to_json(), "loss_before": before["loss"], "loss_after": loss})
    p = max(found.p_bootstrap, found.p_randomisation)
    better = {"the second is": "the tuned model is better", "the first is": "the tuned model is worse"}
    verdict = next((f"{said} (p = {p:.2g})" for key, said in better.items() if found.verdict.startswith(key)), None)
    say(
        f"Held-out loss {before['loss']:.4f} -> {loss:.4f} ({100 * (loss / before['loss'] - 1):+.1f} %), perplexity"
        f" {found.first:.3f} -> {found.second:.3f}; paired tests over {found.n} records: {verdict or found.verdict}"
    )
    return found
