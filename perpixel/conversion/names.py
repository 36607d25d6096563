"""Tables of names, and reading them in both directions.

A table's rows pair a toolkit's name of a module with ours. Holes such as {k}, {stage+1}, {2k} or
{3k+1} stand for numbers, the same letter for the same number on both sides. {n} is the number of
convolutions before a head's classifier, which a Sequential counts into the classifier's own name.
The last part of a name (weight, bias, running_mean, ...) is the same everywhere.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache

Rows = tuple[tuple[str, str], ...]

_HOLE = re.compile(r"\{(\d*)([a-z]+)(?:\+(\d+))?\}")


def to_ours(rows: Rows, names: Iterable[str]) -> dict[str, str]:
    """Our name of each of a toolkit's `names`; those that no row places are left out."""
    names = list(names)
    plain = [row for row in rows if _fill(row[0], {"n": 0}) == row[0]]
    return _renamed(_bound(rows, _renamed(plain, names).values()), names)


def to_theirs(rows: Rows, names: Iterable[str]) -> dict[str, str]:
    """The toolkit's name of each of our `names`; those that no row places are left out."""
    names = list(names)
    return _renamed([(ours, theirs) for theirs, ours in _bound(rows, names)], names)


def _bound(rows: Rows, ours: Iterable[str]) -> list[tuple[str, str]]:
    """The rows with {n} filled in, as counted in our names; those rows go before the others."""
    ours = list(ours)
    counts = {part: {"n": _convs(ours, part)} for part in ("head", "auxiliary", "backbone")}
    filled = [(_fill(theirs, counts[mine.partition(".")[0]]), mine) for theirs, mine in rows]
    return sorted(filled, key=lambda row: row in rows)  # False, a row that {n} changed, is first


def _convs(ours: Iterable[str], part: str) -> int:
    """How many convolutions "head" or "auxiliary" has, even where one of its names is missing."""
    layer = re.compile(rf"{part}\.convs\.(\d+)\.(0\.weight|1\.running_mean)")
    found = [int(match[1]) for match in map(layer.fullmatch, ours) if match]
    return max(found, default=-1) + 1


def _renamed(rows: Iterable[tuple[str, str]], names: Iterable[str]) -> dict[str, str]:
    rows = list(rows)
    renamed = {}
    for name in names:
        module, _, parameter = name.rpartition(".")
        for left, right in rows:
            values = _match(left, module)
            if values is not None:
                renamed[name] = f"{_fill(right, values)}.{parameter}"
                break
    return renamed


def _match(template: str, text: str) -> dict[str, int] | None:
    """The numbers in `text` where it fits the template, else None."""
    pattern, holes = _compiled(template)
    match = pattern.fullmatch(text)
    if match is None:
        return None
    values = {}
    for number, (scale, letter, shift) in zip(match.groups(), holes, strict=True):
        value, rest = divmod(int(number) - shift, scale)
        if rest or value < 0:
            return None
        values[letter] = value
    return values


@cache
def _compiled(template: str) -> tuple[re.Pattern[str], tuple[tuple[int, str, int], ...]]:
    holes = tuple(
        (int(scale or 1), letter, int(shift or 0))
        for scale, letter, shift in _HOLE.findall(template)
    )
    literal = _HOLE.split(template)[:: _HOLE.groups + 1]
    return re.compile(r"(\d+)".join(re.escape(part) for part in literal)), holes


def _fill(template: str, values: Mapping[str, int]) -> str:
    """The template with the holes whose letters are among `values` filled in."""

    def number(hole: re.Match[str]) -> str:
        scale, letter, shift = hole.groups()
        if letter not in values:
            return hole[0]
        return str(int(scale or 1) * values[letter] + int(shift or 0))

    return _HOLE.sub(number, template)
