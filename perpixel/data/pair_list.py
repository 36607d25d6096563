"""A compact list of file pairs that worker processes share."""

import os
from array import array
from collections.abc import Iterable, Iterator

Pair = tuple[str, str]


class PairList:
    """Pairs of paths, image and mask, stored in two arrays.

    A million pairs take the bytes of their names and 16 more each, and forked workers share them.
    (A list of strings is copied in every worker that reads it, because reading changes the
    reference counts.)
    """

    def __init__(self, pairs: Iterable[Pair]) -> None:
        names, ends = bytearray(), array("q", [0])
        for pair in pairs:
            for path in pair:
                names += os.fsencode(path)
                ends.append(len(names))
        self._names, self._ends = bytes(names), ends

    def __len__(self) -> int:
        return len(self._ends) // 2

    def __getitem__(self, index: int) -> Pair:
        start = 2 * range(len(self))[index]
        first, second, third = self._ends[start : start + 3]
        return os.fsdecode(self._names[first:second]), os.fsdecode(self._names[second:third])

    def __iter__(self) -> Iterator[Pair]:
        return (self[index] for index in range(len(self)))
