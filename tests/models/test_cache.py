"""The key-value cache in any order of its rows: in place as by copying, and nothing copied that rows have in common."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zhixing.models.cache import COMPARED_ROWS, KVCache


def append(cache: KVCache, texts: list[list[int]]) -> None:
    """Stands for a step of a network: puts each text's newest token into the cache."""
    newest = torch.tensor([text[-1] for text in texts], dtype=torch.float32)
    for layer in cache.layers:
        layer.update(newest[:, None, None, None], -newest[:, None, None, None], cache.length)
    cache.length += 1


def held(cache: KVCache) -> list[list[int]]:
    assert torch.equal(cache.layers[0].keys[:, :, : cache.length], -cache.layers[0].values[:, :, : cache.length])
    return cache.layers[0].keys[:, 0, : cache.length, 0].int().tolist()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_rows_hold_the_texts_that_they_became(data):
    texts = [[1], [2], [3]]
    cache = KVCache(1, 3, 1, 20, 1)
    append(cache, texts)
    token = 10
    for _ in range(data.draw(st.integers(1, 8))):
        kind = data.draw(st.sampled_from(["repeat", "keep", "reorder"]))
        count = len(texts)
        if kind == "repeat" and count <= 4:
            texts = [text for text in texts for _ in range(2)]
            cache.repeat(2)
        else:
            size = count if kind != "keep" else data.draw(st.integers(1, count))
            order = data.draw(st.lists(st.integers(0, count - 1), min_size=size, max_size=size))
            texts = [texts[row] for row in order]
            (cache.reorder if kind == "reorder" else cache.keep)(torch.tensor(order))
        token += len(texts)
        texts = [[*text, token + row] for row, text in enumerate(texts)]
        append(cache, texts)
        assert held(cache) == texts
        assert cache.batch == len(texts)


def test_only_what_differs_is_copied():
    cache = KVCache(1, 1, 1, 20, 1)
    append(cache, [[5]])
    append(cache, [[6]])
    cache.repeat(3)
    append(cache, [[7], [8], [9]])
    cache.layers[0].keys[2, 0, 0, 0] = cache.layers[0].values[2, 0, 0, 0] = 0  # a mark on what is the same everywhere
    cache.reorder(torch.tensor([0, 0, 1]))
    assert cache.layers[0].keys[:, 0, :3, 0].tolist() == [[5, 6, 7], [5, 6, 7], [0, 6, 8]]
    append(cache, [[1], [2], [3]])
    cache.reorder(torch.tensor([1, 1, 0]))
    assert cache.layers[0].keys[:, 0, :4, 0].tolist() == [[5, 6, 7, 2], [5, 6, 7, 2], [0, 6, 7, 1]]


def test_many_rows_are_not_compared():
    cache = KVCache(1, 1, 1, 4, 1)
    append(cache, [[5]])
    cache.repeat(COMPARED_ROWS + 1)
    assert cache._common is None
    append(cache, [[row] for row in range(COMPARED_ROWS + 1)])
    cache.reorder(torch.arange(COMPARED_ROWS + 1).flip(0))
    assert held(cache)[0] == [5, COMPARED_ROWS]
