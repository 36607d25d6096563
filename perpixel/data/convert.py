"""Draws annotations as masks and describes them in a dataset.toml: `perpixel data convert`."""

import posixpath
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from perpixel.data.annotations import class_masks, coco, labelme, yolo
from perpixel.data.annotations.base import IGNORED, AnnotatedFolder, AnnotatedImage
from perpixel.data.annotations.drawing import require_size
from perpixel.data.class_table import toml_value
from perpixel.data.datasets.folder import FILE, open_folder
from perpixel.data.paths import first_few, require_folder
from perpixel.data.prefetch import cores, read_ahead
from perpixel.data.splits import hold_out
from perpixel.errors import PerpixelError
from perpixel.io.atomic import atomic_write
from perpixel.io.images import IMAGE_SUFFIXES, Array, Size, distinct_palette, read_image, write_mask
from perpixel.recipes.overrides import require_known
from perpixel.recipes.schema import IGNORE_INDEX

MASKS = "perpixel-masks"  # the folder for masks and lists

_READERS = {"coco": coco, "labelme": labelme, "yolo": yolo, "masks": class_masks}


def convert(
    root: Path, *, only: str | None = None, progress: Callable[[int, int], None] | None = None
) -> list[str]:
    """Writes ROOT/perpixel-masks and ROOT/dataset.toml for the annotations below `root`.

    Masks are PNGs with ids: 0 for what no annotation covers, classes from 1 on. Where annotations
    overlap, the smaller one is on top, as COCO and YOLO say no order (alicranck/coco2voc, issue 8;
    Ultralytics' polygons2masks_overlap); LabelMe's later shapes cover earlier ones, as in its own
    shapes_to_label. `only` is the format: coco, labelme, yolo or masks.

    Returns lines for the user: what was found, and everything that was not drawn. Raises UsageError
    for an unknown `only`, PerpixelError for malformed annotations, corrupt images or those of
    another size, and when nothing was drawn; nothing is left behind then, or overwritten.
    """
    require_folder(root, dataset="your images", holds="them and their annotations")
    for path in (root / FILE, root / MASKS):
        if path.exists():
            raise PerpixelError(f"{path}: exists already; move it away to convert anew")
    folder = AnnotatedFolder(root)
    name = _read(folder, only)
    try:
        return _write(folder, name, progress)
    except BaseException:
        (root / FILE).unlink(missing_ok=True)
        shutil.rmtree(root / MASKS, ignore_errors=True)
        raise


def _read(folder: AnnotatedFolder, only: str | None) -> str:
    """Reads the annotations of the format `only`, or of the one there is; returns its name."""
    if only is not None:
        require_known(only, _READERS, f"--format {only}: there is no such format")
    files = {name: _READERS[name].find(folder) for name in ([only] if only else _READERS)}
    formats = [name for name in files if files[name]]
    if len(formats) > 1 and formats[-1] == "masks":  # other exports may come with masks, too
        formats.pop()
    if len(formats) > 1:
        examples = " or ".join(f"--format {name} ({files[name][0]})" for name in formats)
        raise PerpixelError(f"{folder.root}: holds several kinds of annotations: add {examples}")
    if not formats:
        raise PerpixelError(
            f"{folder.root}: found no annotations (--format {only or 'any'}): no JSON of COCO or "
            f"LabelMe, no YOLO text in labels/ or beside the images, and no masks of one class, "
            f"{class_masks.LAYOUTS} (export COCO from Label Studio, whose task-1-... name no "
            f"image). Masks of all classes need no conversion: `perpixel data init`"
        )
    (name,) = formats
    _READERS[name].read(folder)
    used = {*files[name], *(image.path for image in folder.images.values())}
    kinds = {(Path(file).parent, Path(file).suffix) for file in files[name]}
    for file in folder.files:
        is_kind = (Path(file).parent, Path(file).suffix) in kinds
        if file not in used and (is_kind or file.lower().endswith(IMAGE_SUFFIXES)):
            folder.notes["files not used"].append(file)
    return name


def _write(
    folder: AnnotatedFolder, name: str, progress: Callable[[int, int], None] | None
) -> list[str]:
    """Writes masks, lists and dataset.toml; returns the lines for the user."""
    root, notes, images = folder.root, folder.notes, list(folder.images.values())
    classes, ids = _number_classes(folder)
    palette = ((0, 0, 0), *distinct_palette(max(len(classes) - 1, 1)))
    splits: dict[str, list[str]] = defaultdict(list)
    pixels: Counter[int] = Counter()
    shapes = read_ahead(lambda i: read_image(root / i.path).shape, images, threads=cores())
    for done, (image, shape) in enumerate(zip(images, shapes, strict=True), start=1):
        mask = _draw(folder, image, shape[:2], ids)
        stem = posixpath.splitext(image.path)[0]
        write_mask(root / MASKS / f"{stem}.png", mask, palette)
        splits[image.split].append(stem)
        pixels.update(dict(enumerate(np.bincount(mask.ravel()).tolist())))
        if progress is not None:
            progress(done, len(images))

    if rest := splits.pop("", []):
        splits["other" if "train" in splits else "train"] = rest
    train = splits.get("train", [])
    if train and "val" not in splits:
        splits["train"], splits["val"] = map(list, hold_out(train))
        notes["images taken for val (divide videos as a whole, by hand)"] += splits["val"]
    notes["classes without a pixel"] += [name for name, n in classes.items() if not pixels[n]]
    without = [image.path for image in images if not image.annotations]
    notes["images without an annotation, all background"] += without
    lines = [f"{kind}: {len(cases)} ({first_few(cases)})" for kind, cases in notes.items() if cases]
    if not any(pixels[n] for n in range(1, IGNORE_INDEX)):
        raise PerpixelError(f"{root}: no annotation could be drawn. {'; '.join(lines)}")
    toml = [
        f"# Written by `perpixel data convert` from {name} annotations. If what they do not cover",
        "# has no label, delete the first class and write here: ignored_ids = [0, 255]",
        f"image_suffixes = {toml_value(sorted({Path(image.path).suffix for image in images}))}",
        "classes = [",
    ]
    for class_name, n in classes.items():
        text = f"name = {toml_value(class_name)}, color = {list(palette[n])}"
        toml.append(f"  {{ {text}, ids = [{n}] }},  # {pixels[n] / pixels.total():.2%}")
    toml.append("]")
    for split, stems in splits.items():
        file = f"{MASKS}/{split}.txt"
        content = "".join(f"{stem}\n" for stem in stems).encode(errors="surrogateescape")
        atomic_write(root / file, content)
        toml += [f"[splits.{split}]", 'images = "."', f'masks = "{MASKS}"', f'list = "{file}"']
    atomic_write(root / FILE, "\n".join([*toml, ""]).encode(errors="backslashreplace"))
    for split in splits:
        open_folder(root, split)
    return [
        f"{name}: {', '.join(f'{split} {len(stems)}' for split, stems in splits.items())} images, "
        f"{len(classes)} classes ({first_few(classes)})",
        f"where annotations overlap, the {'later' if folder.is_ordered else 'smaller'} is on top",
        *lines,
        f"written: {root / FILE}, {root / MASKS}",
    ]


def _number_classes(folder: AnnotatedFolder) -> tuple[dict[str, int], dict[str, int]]:
    """The ids of the classes, background first, and those by the names that annotations have."""
    classes, ids = {"background": 0}, {IGNORED: IGNORE_INDEX}
    for name in folder.class_names:
        if name not in ids:
            ids[name] = classes.setdefault(" ".join(name.split()), len(classes))
    if len(classes) >= IGNORE_INDEX:
        limit = f"at most {IGNORE_INDEX - 2} are possible ({first_few(classes)})"
        raise PerpixelError(f"{folder.root}: {len(classes) - 1} classes are annotated; {limit}")
    return classes, ids


def _draw(
    folder: AnnotatedFolder, image: AnnotatedImage, size: Size, ids: Mapping[str, int]
) -> Array:
    """Draws the mask of an image of `size`."""
    require_size(size, image.size or size, f"{folder.root / image.origin}: {image.path}")
    layers = []
    for annotation in image.annotations:
        pixels = np.flatnonzero(annotation.draw(size))
        layers.append((pixels, ids[annotation.class_name]))
        if not len(pixels):
            kind = "annotations not drawn, without a pixel (malformed, or of another size)"
            folder.notes[kind].append(annotation.origin)
    if not folder.is_ordered:
        layers.sort(key=lambda layer: -len(layer[0]))
    mask = np.zeros(size, np.uint8)
    for pixels, index in layers:
        mask.flat[pixels] = index
    return mask
