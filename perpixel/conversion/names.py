"""Translates parameter names between a toolkit and perpixel by a table of module names.

A table's rows pair a toolkit's name of a module with ours. Placeholders such as {k}, {stage+1},
{2k} or {3k+1} stand for integers, the same letter for the same integer on both sides. {n} is the
number of convolutions before a head's classifier, which is the classifier's index in a Sequential.
{*} stands for any text. The last part of a name (weight, bias, running_mean, ...) is the same in
all toolkits, but where a row pairs whole names.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache

NameMap = tuple[tuple[str, str], ...]

_PLACEHOLDER = re.compile(r"\{(\d*)([a-z]+|\*)(?:\+(\d+))?\}")


def to_perpixel_names(name_map: NameMap, names: Iterable[str]) -> dict[str, str]:
    """Returns our name of each of a toolkit's `names`, without those that no row matches."""
    names = list(names)
    without_n = [row for row in name_map if _fill(row[0], {"n": 0}) == row[0]]
    ours = _translate(without_n, names).values()
    return _translate(_fill_n(name_map, ours), names)


def to_toolkit_names(name_map: NameMap, names: Iterable[str]) -> dict[str, str]:
    """Returns the toolkit's name of each of our `names`, without those that no row matches."""
    names = list(names)
    return _translate([(ours, theirs) for theirs, ours in _fill_n(name_map, names)], names)


def _fill_n(name_map: NameMap, names: Iterable[str]) -> list[tuple[str, str]]:
    """Replaces {n} by the number of convolutions in our `names`; puts the rows with {n} first."""
    names = list(names)
    filled = []
    for theirs, ours in name_map:
        num_convs = _count_convs(names, head=ours.partition(".")[0])
        filled.append((_fill(theirs, {"n": num_convs}), ours))
    return sorted(filled, key=lambda row: row in name_map)


def _count_convs(names: Iterable[str], *, head: str) -> int:
    """Counts the convolutions of "head" or "auxiliary", even if one of its names is missing."""
    layer = re.compile(rf"{head}\.convs\.(\d+)\.(0\.weight|1\.running_mean)")
    indices = [int(match[1]) for match in map(layer.fullmatch, names) if match]
    return max(indices, default=-1) + 1


def _translate(rows: Iterable[tuple[str, str]], names: Iterable[str]) -> dict[str, str]:
    rows = list(rows)
    translated = {}
    for name in names:
        module, _, parameter = name.rpartition(".")
        for source, target in rows:
            if (values := _match(source, module)) is not None:
                translated[name] = f"{_fill(target, values)}.{parameter}"
                break
            if (values := _match(source, name)) is not None:
                translated[name] = _fill(target, values)
                break
    return translated


def _match(template: str, text: str) -> dict[str, int | str] | None:
    """Returns the placeholders' values where `text` matches the template, else None."""
    pattern, placeholders = _compile(template)
    match = pattern.fullmatch(text)
    if match is None:
        return None
    values: dict[str, int | str] = {}
    for number, (scale, letter, shift) in zip(match.groups(), placeholders, strict=True):
        if letter == "*":
            values[letter] = number
            continue
        value, rest = divmod(int(number) - shift, scale)
        if rest or value < 0:
            return None
        values[letter] = value
    return values


@cache
def _compile(template: str) -> tuple[re.Pattern[str], tuple[tuple[int, str, int], ...]]:
    placeholders = tuple(
        (int(scale or 1), letter, int(shift or 0))
        for scale, letter, shift in _PLACEHOLDER.findall(template)
    )
    literals = _PLACEHOLDER.split(template)[:: _PLACEHOLDER.groups + 1]
    pattern = re.escape(literals[0])
    for (_, letter, _), literal in zip(placeholders, literals[1:], strict=True):
        pattern += (r"(.+)" if letter == "*" else r"(\d+)") + re.escape(literal)
    return re.compile(pattern), placeholders


def _fill(template: str, values: Mapping[str, int | str]) -> str:
    """Replaces the placeholders whose letters are among `values`."""

    def number(placeholder: re.Match[str]) -> str:
        scale, letter, shift = placeholder.groups()
        if letter not in values:
            return placeholder[0]
        value = values[letter]
        return value if isinstance(value, str) else str(int(scale or 1) * value + int(shift or 0))

    return _PLACEHOLDER.sub(number, template)
