import pickle
import sys

import pytest

from perpixel.data.pair_list import PairList

PAIRS = [("a.jpg", "a.png"), ("äö/ü b.jpg", ""), ("c\udcff.jpg", "c.png")]


def test_a_listing_holds_what_it_was_given():
    listing = PairList(pair for pair in PAIRS)
    assert len(listing) == 3
    assert list(listing) == PAIRS
    assert listing[1] == listing[-2] == PAIRS[1]
    assert list(pickle.loads(pickle.dumps(listing))) == PAIRS
    for index in (3, -4):
        with pytest.raises(IndexError):
            listing[index]
    assert list(PairList([])) == []


def test_a_listing_is_small():
    """The objects that it holds do not grow in number, so that workers copy none of them."""
    listing = PairList((f"images/{i:07}.jpg", f"masks/{i:07}.png") for i in range(10_000))
    parts = list(vars(listing).values())
    assert len(parts) == 2
    assert sum(sys.getsizeof(part) for part in parts) < 10_000 * 60
    assert listing[9_999] == ("images/0009999.jpg", "masks/0009999.png")
