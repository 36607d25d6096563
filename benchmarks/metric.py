"""Counting one image's confusion, beside mmsegmentation's metric.

Masks of 2048x1024 in Cityscapes' 19 and ADE20K's 150 classes. mmsegmentation counts four
histograms, perpixel the whole confusion matrix.
"""

import argparse

from measure import record, write_result
from peers import take_turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    found = []
    for classes in (19, 150):
        case = {"classes": classes, "size": (1024, 2048)}
        cases = {"mmsegmentation": ("mmseg", case), "perpixel": ("perpixel", case)}
        values = take_turns("metric", cases, rounds=given.rounds)
        found.append(record(f"metric: {classes} classes, 2048x1024", "seconds", values))
    print(write_result("metric", {"measured": found}))


if __name__ == "__main__":
    main()
