"""The scheduler and its blocks in random order: add, abort, preempt, finish. No block is lost, none has two owners."""

import random

import pytest

from zhixing.generation.engine.blocks import Blocks
from zhixing.generation.engine.scheduler import Scheduler

SIZE, STEP = 4, 12


class Job:
    """What the scheduler knows of a request."""

    def __init__(self, tokens, total):
        self.tokens, self.total = list(tokens), total
        self.read = self.preempted = self.reused = 0
        self.blocks = []

    @property
    def pending(self):
        return len(self.tokens) - self.read


class Model:
    """A cache that remembers which token was written into which slot, to see that nobody reads another's."""

    def __init__(self, blocks):
        self.slots = [[None] * SIZE for _ in range(blocks)]

    def run(self, pieces):
        for piece in pieces:
            job = piece.request
            for place in range(job.read, job.read + piece.size):
                self.slots[job.blocks[place // SIZE]][place % SIZE] = tuple(job.tokens[: place + 1])
            for place in range(job.read + piece.size):
                assert self.slots[job.blocks[place // SIZE]][place % SIZE] == tuple(job.tokens[: place + 1])


def check(scheduler):
    blocks = scheduler.blocks
    users = [0] * blocks.count
    for job in scheduler.running:
        for block in job.blocks:
            users[block] += 1
    assert all(not job.blocks for job in scheduler.waiting)
    assert users == blocks._users
    assert blocks.free == users.count(0)
    assert sorted([*blocks._empty, *blocks._left]) == [block for block in range(blocks.count) if users[block] == 0]


@pytest.mark.parametrize("remembers", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_random_steps_lose_no_block(seed, remembers):
    draw = random.Random(seed)
    scheduler = Scheduler(Blocks(24, SIZE, remembers), STEP, 6)
    model, seen, finished, ahead = Model(24), 0, 0, 0
    for number in range(1000):  # 10,000 in all
        live = [*scheduler.running, *scheduler.waiting]
        if number % 200 < 80 and draw.random() < 0.3 and len(live) < 12:  # now and then nobody waits
            # Few different tokens, so that beginnings are often alike.
            prompt = [draw.randrange(2) for _ in range(draw.randrange(1, 40))]
            scheduler.add(Job(prompt, len(prompt) + draw.randrange(1, 50)))
        if live and draw.random() < 0.05:
            scheduler.remove(draw.choice(live))
        pieces = scheduler.step()
        assert sum(piece.size for piece in pieces) <= STEP
        assert pieces or not (scheduler.running or scheduler.waiting) or scheduler.preempted
        seen += len(scheduler.preempted)
        steps = scheduler.ahead(pieces, draw.randrange(1, 8))
        ahead += steps > 1
        for _ in range(steps):
            model.run(pieces)
            for piece in pieces:
                scheduler.done(piece)
                if piece.last:
                    assert piece.request.pending == 0
                    piece.request.tokens.append(draw.randrange(2))
            check(scheduler)
            if draw.random() < 0.1:
                break  # some steps are not run
        for piece in pieces:
            if len(piece.request.tokens) >= piece.request.total:
                scheduler.remove(piece.request)
                finished += 1
        check(scheduler)
    assert seen > 20, "blocks never ran out"
    assert finished > 40
    assert ahead > 20, "no steps followed one another"
    assert (scheduler.found > 0) == remembers
    for job in [*scheduler.running, *scheduler.waiting]:
        scheduler.remove(job)
    scheduler.blocks.clear()
    check(scheduler)
    assert scheduler.blocks.free == 24
    assert not scheduler.blocks._known


def test_answers_go_on_while_a_long_prompt_is_read():
    scheduler = Scheduler(Blocks(100, SIZE), STEP, 8)
    short, long = Job([1, 2], 20), Job(range(60), 70)
    scheduler.add(short)
    scheduler.add(long)
    read = []
    while long.pending:
        pieces = scheduler.step()
        read.append([(piece.request is short, piece.size) for piece in pieces])
        for piece in pieces:
            scheduler.done(piece)
            if piece.last:
                piece.request.tokens.append(7)
        if long.read == 60:
            break
    assert read[0] == [(True, 2), (False, 10)]
    assert all(step == [(True, 1), (False, 11)] for step in read[1:-1])


def test_what_was_left_longest_ago_goes_first_and_beginnings_go_last():
    blocks = Blocks(4, SIZE)
    first, second = [blocks.take(), blocks.take()], [blocks.take(), blocks.take()]
    for taken, start in ((first, 0), (second, 100)):
        blocks.fill(taken, 0, range(start, start + 4))
        blocks.fill(taken, 1, range(start + 4, start + 8))
    blocks.release(first)
    blocks.release(second)
    assert blocks.take() == first[1]
    assert blocks.match(list(range(9))) == [first[0]]
    assert blocks.match(list(range(100, 109))) == second
    assert blocks.match([0, 1, 2, 3]) == []  # its last token must be read
    assert blocks.match([5, 1, 2, 3, 4, 5, 6, 7, 8]) == []


def test_equal_blocks_behind_unequal_ones_are_not_confused():
    blocks = Blocks(8, SIZE)
    one, other = [blocks.take(), blocks.take()], [blocks.take(), blocks.take()]
    blocks.fill(one, 0, [1, 1, 1, 1])
    blocks.fill(one, 1, [9, 9, 9, 9])
    blocks.fill(other, 0, [2, 2, 2, 2])
    assert blocks.match([2, 2, 2, 2, 9, 9, 9, 9, 0]) == [other[0]]
    assert blocks.match([1, 1, 1, 1, 9, 9, 9, 9, 0]) == one
