"""Words the classes of a dataset.toml: from the values of masks, and names where there are any."""

import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from perpixel.data.class_names import ClassNames, recognize
from perpixel.data.dataset import RawValue, plain_names
from perpixel.data.datasets.pascal_voc import VOID_COLOR
from perpixel.data.mask_values import MaskValues, has_soft_edges
from perpixel.data.paths import first_few
from perpixel.errors import UsageError
from perpixel.io.images import distinct_palette, readable_palette
from perpixel.recipes.base import Color
from perpixel.recipes.schema import IGNORE_INDEX

_VOID_NAMES = {"ignore", "ignored", "void", "unlabeled", "unlabelled", "dontcare", "don't care"}
_BACKGROUND_NAMES = {"background", "bg", "other", "others", "rest", "none", "clutter", "backgroud"}

_MAX_PROPOSED = 32
_MAX_SPACING = 16
"""Ids of classes are small numbers side by side; values further apart are shades of gray."""


@dataclass
class _Class:
    name: str
    values: list[RawValue] = field(default_factory=list)
    color: Color | None = None


@dataclass(frozen=True)
class ClassText:
    """The keys of a dataset.toml for its classes, and what the user should know about them."""

    toml: str
    notes: tuple[str, ...]


def reads_by_color(values: MaskValues, names: ClassNames | None) -> bool:
    """Whether `names` have the colors of the masks' palettes, so that colors tell the classes."""
    return (
        names is not None
        and names.ids is None
        and names.colors is not None
        and bool(values.color_of_index)
        and {*values.color_of_index.values()} <= {*names.colors}
    )


def write_classes(values: MaskValues, names: ClassNames | None) -> ClassText:
    """Proposes classes for the values of masks; `names` are those of an export or the user.

    What is doubtful becomes a class, as one too many is seen in every table, and a lost one is not.
    Raises UsageError when names that the user gave do not fit the values.
    """
    notes = []
    all_values = values
    negative = [value for value in sorted(values.pixels) if value[0] < 0]
    if negative and len(negative) < len(values.pixels):
        rest = {value: count for value, count in values.pixels.items() if value not in negative}
        values = replace(values, pixels=rest)
        notes.append(
            f"{_join(map(_plain, negative))}: negative numbers, taken for pixels without a label; "
            f"if one is a class, move it from ignored_ids to the ids of a class"
        )
    else:
        negative = []
    recognized = None if names else _recognize(values)
    if recognized is not None:
        names = recognized
        notes.append(
            f"class names are those of {names.origin}, as the masks have its colors. They are used "
            f"for other classes, too: correct the names if yours are others"
        )
    void, doubt = _find_void(values)
    seen = [value for value in sorted(values.pixels) if value != void]
    name_of, problem = _match_names(seen, values, names)
    if void in name_of:
        void, doubt = None, ""
        seen = sorted(values.pixels)
    ignored = [*negative] if void is None else [*negative, void]
    if problem and names is not None:
        if names.is_explicit:
            raise UsageError(problem)
        notes.append(f"class names are placeholders: {problem}")
    elif names is not None and recognized is None:
        notes.append(f"class names are from {names.origin}")
    named_void = _find_named_void(seen, values, name_of)
    ignored += named_void
    unnamed = [value for value in seen if value not in name_of]
    if name_of and unnamed and names is not None:
        problem = f"{names.origin} has no name for {_join(map(_plain, unnamed))}, which masks hold"
        notes.append(f"{problem}: name them or correct the masks")
    unseen = [n for v, n in name_of.items() if v not in values.pixels and v not in ignored]
    if unseen:
        notes.append(f"no mask that was read shows {first_few(unseen)}: classes all the same")
    shared = [name for name, count in Counter(name_of.values()).items() if count > 1]
    if shared:
        notes.append(f"several values are called {first_few(shared)}: each name is one class")
    if doubt:
        notes.append(doubt)
    classes = _make_classes(seen, values, name_of, names, ignored)
    toml = _toml(classes, ignored, all_values, names, name_of, problem, doubt)
    return ClassText(toml, tuple(notes))


def propose_classes(pixels: Mapping[RawValue, int], names: Sequence[str]) -> str:
    """Says which values masks hold, and the `classes` of a dataset.toml that would fit them.

    `pixels` counts the raw values of a split's masks (ids or colors, at least one), `names` are the
    class names that dataset.toml has now. The answer is part of a sentence.
    """
    total = sum(pixels.values())
    values = sorted(pixels)
    shares = _join(f"{_plain(value)} ({pixels[value] / total:.2%})" for value in values[:8])
    text = f"the masks hold {shares}{', ...' if len(values) > 8 else ''}"
    if len(values) < 2:
        return f"{text} and nothing else: are these the right masks?"
    if len(values) > _MAX_PROPOSED or len(names) > len(values):
        return text
    background = [i for i, name in enumerate(names) if _has_name(name, _BACKGROUND_NAMES)]
    if background and not any(values[0]):  # wherever it is listed, its value is 0
        values.insert(background[0], values.pop(0))
    elif len(names) < len(values) and not any(values[0]):  # only what is marked has a name
        names = ("background", *names)
    rest = map(_placeholder, values[len(names) :])
    key = "colors" if len(values[0]) == 3 else "ids"
    rows = (
        f"{{ name = {_toml_value(name)}, {key} = {_toml_value([_plain(value)])} }}"
        for name, value in zip((*names, *rest), values, strict=True)
    )
    return f"{text}; if each is a class, write classes = [{', '.join(rows)}]"


# --- Which values are classes --------------------------------------------------------------------


def _find_void(values: MaskValues) -> tuple[RawValue | None, str]:
    """Returns the value for "no label", or None and, where 255 might be it, a note on the doubt."""
    pixels = values.pixels
    channels = len(next(iter(pixels)))
    is_gray = all(len(set(value)) == 1 for value in pixels)
    void = (IGNORE_INDEX,) * channels if is_gray else VOID_COLOR
    others = sorted(value for value in pixels if value != void)
    if void not in pixels or len(others) < 2 or has_soft_edges(pixels):
        # In black and white masks, such as of 0 and 255, both are classes.
        return None, ""
    grays = [value[0] for value in others]
    spacing = (grays[-1] - grays[0]) / (len(grays) - 1)
    if pixels[void] > max(pixels[value] for value in others):
        reason = "it is the most common value"
    elif is_gray and (spacing > _MAX_SPACING or IGNORE_INDEX - grays[-1] <= 2 * spacing):
        reason = "the values are spread like shades of gray"
    elif not any(void in held and any(map(any, held - {void})) for held in values.of_masks):
        reason = "no mask holds it beside anything but 0"
    else:
        return void, ""
    key = "colors" if channels == 3 else "ids"
    share = pixels[void] / sum(pixels.values())
    return None, (
        f"{_plain(void)} ({share:.2%} of all pixels) is taken for a class, not for pixels without "
        f"a label, as {reason}: if it means the latter, move it to ignored_{key}"
    )


def _find_named_void(
    seen: Sequence[RawValue], values: MaskValues, name_of: Mapping[RawValue, str]
) -> list[RawValue]:
    """Values with a name such as "void"; never the most common one, nor where one class is left."""
    void = [value for value, name in name_of.items() if _has_name(name, _VOID_NAMES)]
    rest = [value for value in seen if value not in void]
    if len(rest) < 2 or max(seen, key=lambda value: values.pixels[value]) in void:
        return []
    return void


def _make_classes(
    seen: Sequence[RawValue],
    values: MaskValues,
    name_of: Mapping[RawValue, str],
    names: ClassNames | None,
    ignored: Sequence[RawValue],
) -> list[_Class]:
    """Makes the classes: named ones in the order of their list, then those without a name."""
    placeholders = _placeholders(seen, values) if not name_of else {}
    classes: dict[str, _Class] = {}
    for value in dict.fromkeys((*name_of, *seen)):
        if value not in ignored:
            name = name_of.get(value) or placeholders.get(value) or _placeholder(value)
            classes.setdefault(name, _Class(name)).values.append(value)
    color_of = _color_of_names(names)
    for item in classes.values():
        item.color = color_of.get(item.name) if item.name in name_of.values() else None
        if item.color is None:
            item.color = _shown_color(item.values[0], values)
    return list(classes.values())


def _placeholders(seen: Sequence[RawValue], values: MaskValues) -> dict[RawValue, str]:
    numbers = _numbers(values)
    if len(seen) == 2 and not any(seen[0]) and values.pixels[seen[0]] >= values.pixels[seen[1]]:
        return dict(zip(seen, ("background", "foreground"), strict=True))
    return {
        value: f"class_{index if numbers is None else max(value)}"
        for index, value in enumerate(seen)
    }


# --- Which names they have -----------------------------------------------------------------------


def _recognize(values: MaskValues) -> ClassNames | None:
    """Finds the data set whose colors the masks hold or show, as names of indices or colors."""
    if values.palette is None:
        colors = [(v[0], v[1], v[2]) for v in values.pixels if len(v) == 3]
        return recognize(colors, indices={})
    used = values.color_of_index
    names = recognize(used.values(), indices=used)
    if names is None:
        return None
    index_of = {color: index for index, color in reversed([*enumerate(values.palette)])}
    index_of.update({color: index for index, color in used.items()})
    rows = [
        (name, index_of[color], color)
        for name, color in zip(names.names, names.colors or (), strict=True)
        if color in index_of
    ]
    # Several indices may show one color: each has its name.
    known = {color: name for name, _, color in rows}
    listed = {index for _, index, _ in rows}
    rows += [(known[color], i, color) for i, color in used.items() if i not in listed]
    titles, ids, _ = zip(*rows, strict=True)
    return ClassNames(names.origin, titles, ids)


def _match_names(
    seen: Sequence[RawValue], values: MaskValues, names: ClassNames | None
) -> tuple[dict[RawValue, str], str]:
    """Returns the name of each value that `names` has, or none and the reason.

    Names are never shifted or guessed: they fit by color, by id, or by their position where the
    masks hold positions.
    """
    if names is None:
        return {}, ""
    if len(set(names.names)) > IGNORE_INDEX - 1:
        return {}, f"{names.origin} has {len(names.names)} names; there are at most 254 classes"
    is_rgb, numbers = len(seen[0]) == 3, _numbers(values)
    if is_rgb and names.colors and (numbers is None or {*seen} <= {*names.colors}):
        return dict(zip(names.colors, names.names, strict=True)), ""
    if numbers is None:
        return {}, (
            f"{names.origin} gives names without colors, and the masks hold colors: list them in a "
            f"file with a line name,red,green,blue for each class, and pass it with --names"
        )
    ids: Sequence[int] = names.ids or range(len(names.names))
    held = [numbers[value] for value in seen]
    if names.ids is None:
        if max(held) >= len(ids):
            spread = (held[-1] - held[0]) / max(len(held) - 1, 1) > _MAX_SPACING
            if len(held) != len(ids) or not (spread or names.is_explicit):
                return {}, (
                    f"{names.origin} has {len(ids)} names ({first_few(names.names)}) and the masks "
                    f"hold {len(held)} values ({first_few(held)}); a name for each, in this order, "
                    f"can be given with --names"
                )
            ids = held  # shades of gray, in their order
        elif _may_lack_background(seen, values, names):
            return {}, (
                f"{names.origin} ({first_few(names.names)}) names no background, and most pixels "
                f"are 0. If that is {names.names[0]}, pass --names {names.origin}; otherwise "
                f"--names background,{','.join(names.names)}"
            )
    channels = range(len(seen[0]))
    used = [c for c in channels if any(value[c] for value in seen)] or channels
    raw = [tuple(id_ if c in used else 0 for c in channels) for id_ in ids]
    return dict(zip(raw, names.names, strict=True)), ""


def _may_lack_background(seen: Sequence[RawValue], values: MaskValues, names: ClassNames) -> bool:
    """Whether names may start at id 1, as those of objects do, and nothing tells otherwise."""
    zero = values.pixels.get((0,) * len(seen[0]), 0)
    all_shown = len(seen) == len(names.names) >= 3
    return (
        2 * zero > sum(values.pixels.values())
        and not all_shown
        and not names.is_explicit
        and not any(_has_name(name, _BACKGROUND_NAMES | _VOID_NAMES) for name in names.names)
    )


def _has_name(name: str, known: set[str]) -> bool:
    return plain_names([name.strip("_ ")])[0] in known


def _numbers(values: MaskValues) -> dict[RawValue, int] | None:
    """The number that each value stands for: an id, a gray, or one channel's; None for colors."""
    if all(len(set(value)) == 1 for value in values.pixels):
        return {value: value[0] for value in values.pixels}
    used = [sum(map(bool, channel)) > 0 for channel in zip(*values.pixels, strict=True)]
    numbers = {value: max(value) for value in values.pixels}
    # CARLA writes the id in red; (128, 0, 0) alone is a color.
    return numbers if sum(used) == 1 and max(numbers.values()) < 64 else None


# --- Their colors --------------------------------------------------------------------------------


def _color_of_names(names: ClassNames | None) -> dict[str, Color]:
    if names is None or names.colors is None:
        return {}
    return dict(reversed([*zip(names.names, names.colors, strict=True)]))


def _shown_color(value: RawValue, values: MaskValues) -> Color | None:
    """The color that an image viewer shows for a value; None for an id."""
    if len(value) == 3:
        return value[0], value[1], value[2]
    palette = values.palette or ()
    return palette[value[0]] if 0 <= value[0] < len(palette) else None


def _display_colors(classes: Sequence[_Class]) -> list[Color] | None:
    """The classes' own colors, or None when they cannot be told apart by eye."""
    colors = [item.color for item in classes if item.color is not None]
    is_gray = all(len(set(color)) == 1 for color in colors)
    if len(colors) < len(classes) or is_gray or readable_palette(tuple(colors)) != tuple(colors):
        return None
    return colors


# --- The text ------------------------------------------------------------------------------------


def _toml(
    classes: Sequence[_Class],
    ignored: Sequence[RawValue],
    values: MaskValues,
    names: ClassNames | None,
    name_of: Mapping[RawValue, str],
    problem: str,
    doubt: str,
) -> str:
    total = sum(values.pixels.values())
    is_rgb = len(next(iter(values.pixels))) == 3
    key = "colors" if is_rgb else "ids"
    own_colors = _display_colors(classes)
    colors = own_colors or distinct_palette(len(classes))
    if own_colors is None:
        color_origin = "generated"
    elif names is not None and names.colors is not None and name_of:
        color_origin = f"those of {names.origin}"
    else:
        color_origin = "those in the masks" if is_rgb else "those of the masks' palette"
    lines = []
    if values.palette_as_colors:
        lines += [
            *_comment(
                'Masks with a palette are read by the colors that they show, not by "indices".'
            ),
            'read_palette_as = "colors"\n',
        ]
    if ignored:
        listed = [_plain(value) for value in ignored]
        share = sum(values.pixels.get(value, 0) for value in ignored) / total
        called = [f"{_plain(value)} is {name_of[value]}" for value in ignored if value in name_of]
        origin = f"By convention, {_join(listed)} {'is' if len(listed) == 1 else 'are'}"
        if called and names is not None:
            origin = f"{names.origin}: {', '.join(called)}. It is"
        lines += [
            *_comment(f"{origin} for pixels without a label ({share:.2%} of all)."),
            f"ignored_{key} = {_toml_value(listed)}\n",
        ]
    name_origin = "placeholders: replace them"
    if name_of and names is not None:
        name_origin = f"those of {names.origin}"
    text = (
        f"The classes in the order of the model's outputs, with their shares of the pixels. The "
        f"names are {name_origin}. The colors are {color_origin}."
    )
    lines += _comment(text)
    lines += _comment(f'A line that only means "no label" belongs in ignored_{key}.')
    lines += _comment(f"Look at this: {problem}.") if problem else []
    lines += _comment(f"Look at this: {doubt}.") if doubt else []
    lines.append("classes = [")
    for item, color in zip(classes, colors, strict=True):
        raw = [list(value) if is_rgb else value[0] for value in item.values]
        # Without `ids` and `colors`, `color` is the value in RGB masks.
        is_color = (
            is_rgb
            and own_colors is not None
            and all(other.values == [other.color] for other in classes)
        )
        keys = "" if is_color else f", {key} = {_toml_value(raw)}"
        count = sum(values.pixels.get(value, 0) for value in item.values)
        line = f"{{ name = {_toml_value(item.name)}, color = {list(color)}{keys} }},"
        lines.append(f"  {line}  # {count / total:.2%}")
    return "\n".join([*lines, "]"])


def _comment(text: str) -> list[str]:
    # Names from files may hold line breaks and other control characters.
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return textwrap.wrap(
        printable, 90, initial_indent="# ", subsequent_indent="# ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _placeholder(value: RawValue) -> str:
    return "_".join(map(str, ("class", *value)))


def _plain(value: RawValue) -> int | list[int]:
    """7 for (7,), [64, 0, 128] for a color."""
    return list(value) if len(value) == 3 else value[0]


def _join(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))


def _toml_value(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
