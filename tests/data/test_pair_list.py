import pickle
import tracemalloc

import pytest

from perpixel.data.pair_list import PairList

PAIRS = [("a.jpg", "a.png"), ("äö/ü b.jpg", ""), ("c\udcff.jpg", "c.png")]


def test_a_list_holds_its_pairs():
    pairs = PairList(pair for pair in PAIRS)
    assert len(pairs) == 3
    assert list(pairs) == PAIRS
    assert pairs[1] == pairs[-2] == PAIRS[1]
    assert list(pickle.loads(pickle.dumps(pairs))) == PAIRS
    for index in (3, -4):
        with pytest.raises(IndexError):
            pairs[index]
    assert list(PairList([])) == []


def test_a_list_takes_little_memory():
    """Fewer than 60 bytes a pair of 34 characters; a list of strings takes more than 200."""
    tracemalloc.start()
    pairs = PairList((f"images/{i:07}.jpg", f"masks/{i:07}.png") for i in range(10_000))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 10_000 * 60
    assert pairs[9_999] == ("images/0009999.jpg", "masks/0009999.png")
