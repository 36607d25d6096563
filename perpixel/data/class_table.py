"""Words the classes of a dataset.toml: from the values of masks, and names where there are any."""

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from perpixel.data.class_names import ClassNames
from perpixel.data.dataset import RawValue, plain_names
from perpixel.data.datasets.pascal_voc import VOID_COLOR
from perpixel.data.mask_values import MaskValues, has_soft_edges
from perpixel.data.paths import first_few
from perpixel.errors import UsageError
from perpixel.io.images import readable_palette
from perpixel.recipes.base import Color
from perpixel.recipes.schema import IGNORE_INDEX

_VOID_NAMES = {"ignore", "ignored", "void", "unlabeled", "unlabelled", "dontcare", "don't care"}
_BACKGROUND_NAMES = {"background", "bg", "other", "others", "rest", "none", "clutter", "backgroud"}

_MAX_PROPOSED = 32
_MAX_SPACING = 16
"""Ids of classes are small numbers side by side; values further apart are shades of gray."""


def reads_by_color(values: MaskValues, names: ClassNames | None) -> bool:
    """Whether `names` have the colors of the masks' palettes, so that colors tell the classes."""
    if names is None or names.ids or not names.colors or not values.color_of_index:
        return False
    used = {*values.color_of_index.values()}
    # The index for pixels without a label may show the color of a class, as black for both.
    color_of_void = (*(values.palette or ())[IGNORE_INDEX:], (0, 0, 0))[0]
    merges = (IGNORE_INDEX,) in values.pixels and color_of_void in used
    return used <= {*names.colors} and not merges


def write_classes(values: MaskValues, names: ClassNames | None) -> tuple[str, list[str]]:
    """Proposes classes for the values of masks; `names` are those of an export or the user.

    Returns the keys of a dataset.toml, and notes for the user, which are comments there, too. What
    is doubtful becomes a class, as one too many is seen in every table, and a lost one is not.
    Raises UsageError when names that the user gave do not fit the values.
    """
    raw_values = sorted(values.pixels)
    not_negative = [value for value in raw_values if value[0] >= 0] or raw_values
    void, doubt = _find_void(not_negative, values)
    seen = [value for value in not_negative if value != void]
    name_of, problem = _match_names(seen, values, names) if names else ({}, "")
    if names and problem and names.is_explicit:
        raise UsageError(problem)
    if void in name_of:  # names say more than a convention
        seen, void, doubt = not_negative, None, ""
    named_void = {
        v: f"called {name}" for v, name in name_of.items() if _has_name(name, _VOID_NAMES)
    }
    if len({*seen} - {*named_void}) < 2:
        named_void = {}
    ignored = {value: "negative" for value in raw_values if value not in not_negative} | named_void
    if void is not None:
        ignored[void] = "by convention"
    classes: dict[str, list[RawValue]] = {}
    placeholders = _placeholders(seen, values) if not name_of else {}
    for value in dict.fromkeys((*name_of, *seen)):
        if value not in ignored:
            name = name_of.get(value) or placeholders.get(value) or _placeholder(value)
            classes.setdefault(name, []).append(value)
    notes = [
        f"{_join(value for value in ignored if ignored[value] == reason)}: taken for pixels "
        f"without a label ({reason}); if it is a class, move it there from ignored_{_key(values)}"
        for reason in dict.fromkeys(ignored.values())
    ]
    if names:
        origin = f"placeholders: {problem}" if problem else f"from {names.origin}"
        notes.append(f"class names are {origin}")
    if unnamed := [value for value in seen if name_of and value not in name_of]:
        notes.append(f"no name is given for {_join(unnamed)}, which masks hold: add it")
    if unseen := [name for name, of_name in classes.items() if not {*of_name} & {*raw_values}]:
        notes.append(f"no mask that was read shows {first_few(unseen)}: classes all the same")
    if shared := [name for name, of_name in classes.items() if len(of_name) > 1]:
        notes.append(f"several values are called {first_few(shared)}: each name is one class")
    notes += [doubt] if doubt else []
    return _toml(classes, [*ignored], values, names, notes), notes


def propose_classes(pixels: Mapping[RawValue, int], names: Sequence[str]) -> str:
    """Says which values masks hold, and the `classes` of a dataset.toml that would fit them.

    `pixels` counts the raw values of a split's masks (ids or colors, at least one), `names` are the
    class names that dataset.toml has now. The answer is part of a sentence.
    """
    total = sum(pixels.values())
    values = sorted(pixels)
    shares = first_few(f"{_plain(value)} ({pixels[value] / total:.2%})" for value in values)
    text = f"the masks hold {shares}"
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
    rows = (_row(name, [value]) for name, value in zip((*names, *rest), values, strict=True))
    return f"{text}; if each is a class, write classes = [{', '.join(rows)}]"


# --- Which values are classes --------------------------------------------------------------------


def _find_void(raw_values: Sequence[RawValue], values: MaskValues) -> tuple[RawValue | None, str]:
    """Returns the value for "no label", or None and, where 255 might be it, a note on the doubt."""
    pixels = {value: values.pixels[value] for value in raw_values}
    is_gray = all(len(set(value)) == 1 for value in raw_values)
    void = (IGNORE_INDEX,) * len(raw_values[0]) if is_gray else VOID_COLOR
    others = [value for value in raw_values if value != void]
    if void not in pixels or len(others) < 2 or has_soft_edges(pixels):
        # In black and white masks, such as of 0 and 255, both are classes.
        return None, ""
    grays = [value[0] for value in others]
    spacing = (grays[-1] - grays[0]) / (len(grays) - 1)
    if pixels[void] > max(pixels[value] for value in others):
        reason = "it is the most common value"
    elif is_gray and (spacing > _MAX_SPACING or IGNORE_INDEX - grays[-1] <= 2 * spacing):
        reason = "the values are spread like shades of gray"
    elif not any(void in mask and any(map(any, mask - {void})) for mask in values.of_masks):
        reason = "no mask holds it beside anything but 0"
    else:
        return void, ""
    share = pixels[void] / sum(values.pixels.values())
    return None, (
        f"{_plain(void)} ({share:.2%} of all pixels) is taken for a class, not for pixels without "
        f"a label, as {reason}: if it means the latter, move it to ignored_{_key(values)}"
    )


def _placeholders(seen: Sequence[RawValue], values: MaskValues) -> dict[RawValue, str]:
    if len(seen) == 2 and not any(seen[0]) and values.pixels[seen[0]] >= values.pixels[seen[1]]:
        return dict(zip(seen, ("background", "foreground"), strict=True))
    numbers = _numbers(values) or {value: index for index, value in enumerate(seen)}
    return {value: f"class_{numbers[value]}" for value in seen}


# --- Which names they have -----------------------------------------------------------------------


def _match_names(
    seen: Sequence[RawValue], values: MaskValues, names: ClassNames
) -> tuple[dict[RawValue, str], str]:
    """Returns the name of each value that `names` has, or none and the reason.

    Names are never shifted or guessed: they fit by color, by id, or by their position where the
    masks hold positions. What the user lists is also taken for a name of each value, in order.
    """
    count, numbers = len(names.names), _numbers(values)
    listed = f"{names.origin} has {count} names ({first_few(names.names)})"
    if count > IGNORE_INDEX - 1:
        return {}, f"{listed}; there are at most 254 classes"
    if len(seen[0]) == 3 and names.colors and (numbers is None or {*seen} <= {*names.colors}):
        return dict(zip(names.colors, names.names, strict=True)), ""
    if numbers is None:
        return {}, (
            f"{listed} without colors, and the masks hold colors: list them in a file with a line "
            f"name,red,green,blue for each class, and pass it with --names"
        )
    used_ids = [numbers[value] for value in seen]
    if (
        names.ids is None
        and max(used_ids) >= count
        and not (names.is_explicit and len(used_ids) == count)
    ):
        return {}, (
            f"{listed} and the masks hold {len(used_ids)} values ({first_few(used_ids)}); a name "
            f"for each, in this order, can be given with --names"
        )
    if names.ids is None and not names.is_explicit:
        doubt = _doubt_positions(seen, values, names)
        if doubt:
            return {}, (
                f"{listed}, and {doubt}. If 0 is {names.names[0]}, pass --names {names.origin}; "
                f"otherwise list all in order, as in --names background,{','.join(names.names)}"
            )
    ids = names.ids or (range(count) if max(used_ids) < count else used_ids)
    channels = range(len(seen[0]))
    used = [c for c in channels if any(value[c] for value in seen)] or channels
    raw = [tuple(id_ if c in used else 0 for c in channels) for id_ in ids]
    return dict(zip(raw, names.names, strict=True)), ""


def _doubt_positions(seen: Sequence[RawValue], values: MaskValues, names: ClassNames) -> str:
    """Says why the first name may not be that of 0; empty where nothing tells so."""
    colors = names.colors
    if colors and any(colors[index] != color for index, color in values.color_of_index.items()):
        return "gives other colors than the masks' palette"
    # Names of objects start at id 1.
    is_most_common = values.pixels.get((0,) * len(seen[0]), 0) == max(values.pixels.values())
    known = _BACKGROUND_NAMES | _VOID_NAMES
    if is_most_common and not any(_has_name(name, known) for name in names.names):
        return "names no background, while 0 is the most common value"
    return ""


def _has_name(name: str, known: set[str]) -> bool:
    return plain_names([name.strip("_ ")])[0] in known


def _numbers(values: MaskValues) -> dict[RawValue, int] | None:
    """The number that each value stands for: an id, a gray, or one channel's; None for colors."""
    numbers = {value: max(value) for value in values.pixels}
    if all(len(set(value)) == 1 for value in values.pixels):
        return numbers
    used = [any(channel) for channel in zip(*values.pixels, strict=True)]
    # CARLA writes the id in red; (128, 0, 0) alone is a color.
    return numbers if sum(used) == 1 and max(numbers.values()) < 64 else None


# --- The text ------------------------------------------------------------------------------------


def _toml(
    classes: Mapping[str, Sequence[RawValue]],
    ignored: Sequence[RawValue],
    values: MaskValues,
    names: ClassNames | None,
    notes: Sequence[str],
) -> str:
    key, total = _key(values), sum(values.pixels.values())
    lines = [line for note in notes for line in _comment(f"Look at this: {note}.")]
    if values.palette_as_colors:
        lines.append('read_palette_as = "colors"  # those that masks with a palette show')
    if ignored:
        share = sum(values.pixels.get(value, 0) for value in ignored) / total
        raw = toml_value([_plain(value) for value in ignored])
        lines.append(f"ignored_{key} = {raw}  # {share:.2%}")
    lines += _comment(
        f"The classes in the order of the model's outputs, with their shares of the pixels. A line "
        f'that only means "no label" belongs in ignored_{key}.'
        f"{'' if names else ' The names are placeholders: replace them.'}"
    )
    colors = _colors_of_ids(classes, values, names)
    lines.append("classes = [")
    for (name, class_values), color in zip(classes.items(), colors, strict=True):
        share = sum(values.pixels.get(value, 0) for value in class_values) / total
        lines.append(f"  {_row(name, class_values, color)},  # {share:.2%}")
    return "\n".join([*lines, "]"])


def _row(name: str, values: Sequence[RawValue], color: Color | None = None) -> str:
    shown = "" if color is None else f"color = {list(color)}, "
    key = "colors" if len(values[0]) == 3 else "ids"
    raw = toml_value([_plain(value) for value in values])
    return f"{{ name = {toml_value(name)}, {shown}{key} = {raw} }}"


def _colors_of_ids(
    classes: Mapping[str, Sequence[RawValue]], values: MaskValues, names: ClassNames | None
) -> Sequence[Color | None]:
    """The colors of names or palette, for masks of ids; none that cannot be told apart by eye."""
    named = dict(zip(names.names, names.colors, strict=True)) if names and names.colors else {}
    palette = dict(enumerate(values.palette or ()))
    color_of_class = [
        named.get(name) or palette.get(class_values[0][0]) for name, class_values in classes.items()
    ]
    colors = tuple(color for color in color_of_class if color is not None)
    is_gray = all(len(set(color)) == 1 for color in colors)
    is_readable = len(colors) == len(color_of_class) and readable_palette(colors) == colors
    return (
        colors
        if is_readable and not is_gray and _key(values) == "ids"
        else [None] * len(color_of_class)
    )


def _comment(text: str) -> list[str]:
    # Names from files may hold line breaks and other control characters.
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return textwrap.wrap(
        printable, 90, initial_indent="# ", subsequent_indent="# ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _key(values: MaskValues) -> str:
    return "colors" if len(next(iter(values.pixels))) == 3 else "ids"


def _placeholder(value: RawValue) -> str:
    return "_".join(map(str, ("class", *value)))


def _plain(value: RawValue) -> int | list[int]:
    """7 for (7,), [64, 0, 128] for a color."""
    return list(value) if len(value) == 3 else value[0]


def _join(values: Iterable[RawValue]) -> str:
    return ", ".join(str(_plain(value)) for value in values)


def toml_value(value: object) -> str:
    """Writes a text, number, or list of them as TOML."""
    return json.dumps(value, ensure_ascii=False)
