"""Counting one picture's confusion, beside mmsegmentation's metric.

    python benchmarks/metric.py [--rounds 20]

Class maps of 2048x1024 in Cityscapes' 19 and ADE20K's 150 classes. mmsegmentation counts four
histograms, perpixel the whole confusion matrix. Writes benchmarks/results/metric.json.
"""

import argparse

from measure import write_result
from peers import show, take_turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    measured = []
    for classes in (19, 150):
        case = {"classes": classes, "size": (1024, 2048)}
        cases = {"mmsegmentation": ("mmseg", case), "perpixel": ("perpixel", case)}
        values = take_turns("metric", cases, rounds=given.rounds)
        title = f"metric: {classes} classes, 2048x1024"
        show(title, values, unit="ms", scale=1e3)
        measured.append({"title": title, "unit": "seconds", "values": values})
    print(write_result("metric", {"measured": measured}))


if __name__ == "__main__":
    main()
