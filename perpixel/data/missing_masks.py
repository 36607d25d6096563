"""Explains why a folder's images have no masks that could be found, and what to do."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from perpixel.data.annotations import class_masks, coco, labelme, yolo
from perpixel.data.annotations.base import AnnotatedFolder
from perpixel.data.pairing import MASK_WORDS, split_words
from perpixel.data.paths import first_few
from perpixel.errors import PerpixelError, plural
from perpixel.io.images import IMAGE_SUFFIXES, MASK_SUFFIXES

_BY_HAND = (
    "A mask has the name of its image, but for what all masks, or all images, start or end with; "
    "rename them, or write dataset.toml by hand. Masks of one class each become one by `perpixel "
    f"data convert`, as {class_masks.LAYOUTS}"
)
# HumanSignal/label-studio, issue 8561: these names hold no image's name.
_LABEL_STUDIO = (
    "Label Studio's masks of one class do not say their image: export COCO from it, of which "
    "`perpixel data convert` makes masks"
)
_JPEG = (
    "JPEG files cannot be masks, as JPEG changes values: classes mix at every edge. Export PNG; "
    "black and white ones can be converted, as with `magick mogrify -format png -threshold 50% "
    "*.jpg`"
)
_XML = (
    "XML, as of Pascal VOC's boxes or CVAT's polygons, is not read: export masks as PNG, or COCO's "
    "format, from the tool that made it"
)
_ARCHIVE = "unpack it, if it holds the masks"


def missing_masks_error(folder: Path, files: Sequence[str]) -> PerpixelError:
    """Returns an error that says what `files`, paths below `folder`, are, and what to do."""
    images = [file for file in files if file.lower().endswith(IMAGE_SUFFIXES)]
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for file in files:
        path = PurePosixPath(file)
        kinds[str(path.parent)][path.suffix.lower() or path.name] += 1
    content = first_few(
        " and ".join(f"{count} {kind}" for kind, count in counts.most_common(4))
        + ("" if path == "." else f" in {path}")
        for path, counts in kinds.items()
    )
    return PerpixelError(
        f"{folder}: found {plural(len(images), 'image')}, but no masks for them. It holds "
        f"{content}. {_find_cause(folder, files, images)}"
    )


def _find_cause(folder: Path, files: Sequence[str], images: Sequence[str]) -> str:
    """Says what may be wrong, the most likely first."""
    if not images:
        return f"Images end in {', '.join(IMAGE_SUFFIXES)}; convert others"
    with suppress(PerpixelError):  # a file of something else
        annotated = AnnotatedFolder(folder)
        for reader in (coco, labelme, yolo, class_masks):
            if found := reader.find(annotated):
                kind = reader.__name__.rpartition(".")[2].replace("_", " ")
                return (
                    f"{found[0]} looks like annotations ({kind}): `perpixel data convert` makes "
                    f"masks of them"
                )
    named = [
        file
        for file in files
        if file.lower().endswith((*IMAGE_SUFFIXES, *MASK_SUFFIXES))
        and any(split_words(part) & MASK_WORDS for part in PurePosixPath(file).parts)
    ]
    jpegs = [file for file in named if not file.lower().endswith(MASK_SUFFIXES)]
    causes = (
        (_LABEL_STUDIO, [file for file in files if re.search(r"task-\d+-annotation-\d+", file)]),
        (_JPEG, jpegs),
        (
            _ARCHIVE,
            [f for f in files if f.lower().endswith((".zip", ".tar", ".gz", ".tgz", ".7z"))],
        ),
        (_XML, [file for file in files if file.lower().endswith(".xml")]),
        (f"it is called a mask, but no image has its name. {_BY_HAND}", named),
    )
    for cause, found in causes:
        if found:
            return f"{found[0]}: {cause}"
    return (
        f"Masks are recognized by their folder (images and masks, train and trainannot, ...) or "
        f"their names (a.jpg and a_mask.png, image_1.jpg and mask_1.png). They are images, too, "
        f"not JPEG, or arrays (.npy); the first of the images is {images[0]}. {_BY_HAND}"
    )
