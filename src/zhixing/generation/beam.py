"""Beam search: the likeliest whole answers instead of the likeliest next tokens, in one group or in diverse ones.

A search keeps `width` beams. In every step each beam is continued by every token; of these the best go on, and those
that end (an end token, a stop text, a rule, the longest length) are finished with the score

    log p(answer) / length ** length_penalty.

Steps, scores and stopping are those of `transformers`. In diverse beam search (Vijayakumar et al. 2016) the groups of
one prompt are searches of their own, of which each loses `diversity_penalty` for every time that an earlier one has
taken the same token in the same step. With `beam_sampling` the continuations are drawn instead: in the order of
score + Gumbel noise, which is drawing without replacement (Kool et al. 2019).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zhixing.generation.checks import not_numbers
from zhixing.generation.history import History
from zhixing.generation.options import SamplingOptions
from zhixing.generation.result import TokenLogprob
from zhixing.generation.sampling import Candidates, processed
from zhixing.generation.sequence import Sequence as Answer
from zhixing.generation.writing import Pieces, Writing

DEAD = float("-inf")
"""The score of a beam that could not be continued; it only fills its row."""


class Beam(NamedTuple):
    """An answer under way.

    Attributes:
        answer: The answer.
        score: Its log-probability.
        ahead: Tokens behind it that it has not taken yet, because nothing but their number and the end tokens matters
            before the end.
    """

    answer: Answer
    score: float
    ahead: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Tokens so far."""
        return len(self.answer.progress.tokens) + len(self.ahead)


class Continuation(NamedTuple):
    """One more token for a beam.

    Attributes:
        score: Log-probability of the answer with it.
        beam: Which beam of its search it continues.
        token: The token.
        row: The row of that beam among all.
        logprob: What the result tells of it, where asked for.
    """

    score: float
    beam: int
    token: int
    row: int
    logprob: TokenLogprob | None


Offer = tuple[float, int, int]
"""The score of a continuation, the beam of its search that it continues, and the token."""

Grown = tuple[Continuation, Beam]
"""A continuation and the beam with it."""


class Search:
    """The beams of one prompt and group.

    Args:
        answer: The empty answer.
        prompt: Which prompt of the call this is.
        width: Beams.
        options: What is asked for.
    """

    def __init__(self, answer: Answer, prompt: int, width: int, options: SamplingOptions) -> None:
        self.prompt, self.width, self._options = prompt, width, options
        self.beams = [Beam(answer, 0.0)]
        self.finished: list[Answer] = []
        self.done = False
        self._longest, self._ends = answer.longest_answer, answer.limits.end_tokens
        # Whole copies of answers are made where something looks at the text or at each token.
        self._light = answer.leave_text() and options.logprobs is None

    def advance(self, continuations: Iterable[Continuation]) -> list[Continuation]:
        """Takes the best continuations, in their order; returns those that go on, one for each of `width` rows.

        Only among the first `width` does one that ends become a finished answer; the others are there so that enough
        go on. A continuation stays in the row of its beam where it can, so that little has to be copied.
        """
        progress = self.beams[0].answer.progress
        progress.started = progress.started or time.monotonic()  # copies that take their tokens later have it, too
        running: list[Grown] = []
        ended: list[Answer] = []
        drawn = self._options.beam_sampling
        last = self.beams[0].length + 1 >= self._longest  # all beams are of one length
        for rank, continuation in enumerate(continuations):
            score, token = continuation.score, continuation.token
            if score == DEAD or (rank >= self.width and len(running) >= self.width and not drawn):
                break
            beam = self.beams[continuation.beam]
            ahead = (*beam.ahead, token)
            if not self._light or last or token in self._ends:
                beam = Beam(self._taken(beam.answer, ahead, continuation.logprob), score)
            else:
                beam = Beam(beam.answer, score, ahead)
            if beam.answer.reason is None:
                running.append((continuation, beam))
            elif rank < self.width:
                beam.answer.score = self._final(beam)
                ended.append(beam.answer)
        if ended:
            self._finish(ended)
        if drawn:  # in the order in which they were drawn
            running.sort(key=lambda pair: -pair[0].score)
        running = running[: self.width]
        placed = self._placed(running) if running else []
        self.beams = [beam for _, beam in placed]
        self.done = not running or not self._may_improve()
        return [continuation for continuation, _ in placed]

    def _taken(self, answer: Answer, tokens: tuple[int, ...], logprob: TokenLogprob | None = None) -> Answer:
        """Returns a copy of an answer that has taken more tokens."""
        answer = answer.fork()
        if logprob is not None:
            answer.logprobs.append(logprob)
        answer.progress.tokens += tokens[:-1]  # of several only the last one can end it
        if tokens:
            answer.take(tokens[-1])
        return answer

    def _placed(self, running: Sequence[Grown]) -> list[Grown]:
        """Returns what goes on in the order of the rows; a row that nothing is left for repeats the best, dead."""
        rows: list[Grown | None] = [None] * self.width
        others: list[Grown] = []
        for pair in running:
            place = pair[0].beam
            if rows[place] is None:
                rows[place] = pair
            else:
                others.append(pair)
        if len(running) < self.width:
            best, beam = running[0]
            others += [(best._replace(score=DEAD), beam._replace(score=DEAD))] * (self.width - len(running))
        return [pair if pair is not None else others.pop(0) for pair in rows]

    def _final(self, beam: Beam) -> float:
        return float(beam.score / beam.length**self._options.length_penalty)

    def _finish(self, ended: Sequence[Answer]) -> None:
        self.finished = sorted([*self.finished, *ended], key=lambda answer: -(answer.score or 0.0))[: self.width]

    def _may_improve(self) -> bool:
        """Tells whether going on could still change the finished answers, as far as `early_stopping` wants to know."""
        if len(self.finished) < self.width:
            return True
        options = self._options
        if options.early_stopping is True:
            return False
        length = self.beams[0].length
        if options.early_stopping == "never" and options.length_penalty > 0:
            length = self._longest
        best = max(beam.score for beam in self.beams) / length**options.length_penalty
        return bool(best > (self.finished[-1].score or 0.0))

    def stop(self, reason: str, detail: str) -> None:
        """Ends all beams where they are: each becomes a finished answer."""
        if self.done:
            return
        alive = [beam for beam in self.beams if beam.score > DEAD]
        ended = [self._taken(beam.answer, beam.ahead) for beam in alive]
        for beam, answer in zip(alive, ended, strict=True):
            answer.end(reason, detail)
            answer.score = self._final(beam) if beam.length else DEAD
        self._finish(ended)
        self.done = True


class BeamSearch:
    """Searches the answers of every prompt.

    Rows are ordered by group, then by prompt, then by beam; before the first token there is one row per prompt.

    Args:
        writing: The call; one answer per prompt, empty.
    """

    def __init__(self, writing: Writing) -> None:
        self._writing = writing
        options = writing.options
        groups = options.num_beam_groups
        self._width = options.num_beams // groups
        self._groups = [
            [Search(answer.fork(), prompt, self._width, options) for prompt, answer in enumerate(writing.answers)]
            for _ in range(groups)
        ]
        ends = writing.answers[0].limits.end_tokens if writing.answers else ()
        self._considered = max(2, 1 + len(ends)) * self._width
        # Where nothing else looks at the probabilities, only those of the best continuations are worked out.
        changed = writing.processors or options.renormalize_logits or options.beam_sampling or groups > 1
        self._plain = not changed and options.logprobs is None
        self._noise: dict[Search, torch.Generator] = {}
        if options.beam_sampling:
            for number, group in enumerate(self._groups):
                for search in group:
                    seed = writing.answers[search.prompt].random.getrandbits(48) + number
                    self._noise[search] = torch.Generator().manual_seed(seed)

    def pieces(self) -> Pieces:
        """See `Strategy`; nothing is certain before the end, so nothing is given out."""
        writing = self._writing
        started = time.monotonic()
        network = writing.read([answer.prompt.tokens for answer in writing.answers], writing.room)
        history = History(writing.answers, writing.device, bool(writing.processors))
        writing.prompt_seconds = time.monotonic() - started
        first = True
        while True:
            scores = logprobs = network.logits.float()  # (rows, vocab)
            if not self._plain:
                logprobs = logprobs.log_softmax(-1)
                scores = processed(logprobs, history.context(), writing.processors)
            if writing.options.renormalize_logits:
                scores = scores.log_softmax(-1)
            if writing.options.beam_sampling:
                scores = self._narrowed(scores)
            chosen = self._advance(scores, logprobs, first)
            if writing.late:
                self.end("time", f"max_seconds ({writing.options.max_seconds:g}) over")
            on = [each for search, continuations in chosen.items() if not search.done for each in continuations]
            if not on:
                break
            order = torch.tensor([each.row for each in on], device=writing.device)
            newest = torch.tensor([each.token for each in on], device=writing.device)
            network.keep(order)
            history.keep(order)
            history.append(newest)
            network.feed(newest)
            first = False
        yield from ()

    def _narrowed(self, scores: Tensor) -> Tensor:
        candidates = Candidates(scores)
        for narrow in self._writing.filters:
            candidates = narrow(candidates)
        return candidates.scattered(scores.shape[1])

    def _advance(self, scores: Tensor, logprobs: Tensor, first: bool) -> dict[Search, list[Continuation]]:
        """Continues the beams of every search; returns what goes on."""
        vocab = scores.shape[1]
        options = self._writing.options
        taken = torch.zeros(len(self._writing.answers), vocab) if options.num_beam_groups > 1 else None
        chosen: dict[Search, list[Continuation]] = {}
        start = 0
        for group in self._groups:
            searches = [search for search in group if not search.done]
            if not searches:
                continue
            width = 1 if first else self._width
            count = len(searches) * width
            block = scores if first else scores[start : start + count]  # (searches * width, vocab)
            if taken is not None:
                prompts = [search.prompt for search in searches for _ in range(width)]
                block = block - options.diversity_penalty * taken[prompts].to(block.device)
            best = self._best(block, searches, width)
            judged = self._judged(logprobs[start : start + count], best, width)
            for number, search in enumerate(searches):
                first_row = start + number * width
                chosen[search] = search.advance(
                    Continuation(score, beam, token, first_row + beam, logprob)
                    for (score, beam, token), logprob in zip(best[number], judged[number], strict=True)
                )
                if taken is not None:
                    for each in chosen[search]:
                        taken[search.prompt, each.token] += each.score > DEAD
            start += 0 if first else count
        return chosen

    def _best(self, block: Tensor, searches: Sequence[Search], width: int) -> list[list[Offer]]:
        """Returns the best continuations of each search, or drawn ones: score, beam and token of each.

        Args:
            block: Scores, (searches * width, vocab).
            searches: Whose beams the rows are.
            width: Beams of each.
        """
        vocab, count = block.shape[1], len(searches)
        beams = np.array([[beam.score for beam in search.beams] for search in searches], np.float32)
        if self._noise:
            totals = (block.view(count, width, vocab) + torch.from_numpy(beams).to(block.device)[..., None]).flatten(1)
            if bool(totals.isnan().any()):
                raise not_numbers()
            uniform = torch.stack([torch.rand(totals.shape[1], generator=self._noise[search]) for search in searches])
            noisy = totals - (-uniform.log()).log().to(totals.device)
            order = noisy.topk(min(self._considered, totals.shape[1]), dim=1).indices
            found = [part.tolist() for part in (totals.gather(1, order), order // vocab, order % vocab)]
        else:
            # What is best of a search is among the best of each of its rows: from here on there are few numbers.
            scores, tokens = (part.cpu().numpy().reshape(count, width, -1) for part in self._leading(block))
            sums = (scores + beams[..., None]).reshape(count, -1)
            chosen = np.argsort(-sums, axis=1, kind="stable")[:, : self._considered]
            best, their_tokens = (np.take_along_axis(part, chosen, 1) for part in (sums, tokens.reshape(count, -1)))
            found = [part.tolist() for part in (best, chosen // scores.shape[2], their_tokens)]
        return [list(zip(*parts, strict=True)) for parts in zip(*found, strict=True)]

    def _leading(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the best scores of every row, falling, and their tokens: (rows, vocab) -> (rows, count) each."""
        count = min(self._considered, scores.shape[1])
        if self._writing.on_core and scores.device.type == "cpu":
            from zhixing.native.candidates import leading

            found = leading(scores, count, normalise=self._plain)
            if found is None:
                raise not_numbers()
            return found
        if bool(scores.isnan().any()):
            raise not_numbers()
        values, tokens = scores.topk(count, dim=1)
        return (values - scores.logsumexp(-1, keepdim=True) if self._plain else values), tokens

    def _judged(self, logprobs: Tensor, best: Sequence[Sequence[Offer]], width: int) -> list[list[TokenLogprob | None]]:
        """Returns what the result tells of these continuations: the model's own log-probabilities."""
        count = self._writing.options.logprobs
        if count is None:
            return [[None] * len(of_search) for of_search in best]
        values, tokens = (part.tolist() for part in logprobs.topk(min(count, logprobs.shape[1]), dim=-1))
        rows = [tuple(zip(*pair, strict=True)) for pair in zip(tokens, values, strict=True)]
        return [
            [
                TokenLogprob(token, logprobs[number * width + beam, token].item(), rows[number * width + beam])
                for _, beam, token in of_search
            ]
            for number, of_search in enumerate(best)
        ]

    def end(self, reason: str, detail: str) -> list[tuple[Answer, str]]:
        """See `Strategy`."""
        for group in self._groups:
            for search in group:
                search.stop(reason, detail)
        return []

    def results(self) -> list[Answer]:
        """See `Strategy`: the n best of each prompt; of a search that found fewer, those, and a note."""
        n = self._writing.options.n
        answers: list[Answer] = []
        for prompt in range(len(self._writing.answers)):
            found = [answer for group in self._groups for answer in group[prompt].finished]
            best = sorted(found, key=lambda answer: -(answer.score or 0.0))[:n]
            for sample, answer in enumerate(best):
                answer.sample = sample
                if len(best) < n:
                    note = f"beam search found only {len(best)} of the {n} answers asked for"
                    answer.prompt = dataclasses.replace(answer.prompt, notes=(*answer.prompt.notes, note))
            answers += best
        return answers
