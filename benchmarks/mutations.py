"""Corrupt files at the public doors: each is taken, or refused with an error that names it.

Part of faults.py. Real files (images and masks of every format, checkpoints of ours and of
torch.save, dataset.toml) are mutated by a seeded generator and read by
what a user would call. Children read them, a hundred at a time, so that a crash or a hang ends a
child and is told with the number of its mutation.
"""

import faulthandler
import io
import json
import os
import random
import resource
import shutil
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
import torch
from PIL import Image
from scipy.io import savemat

from perpixel.checkpoints.format import Checkpoint, read_checkpoint, write_checkpoint
from perpixel.conversion.files import read_source
from perpixel.data.convert import convert
from perpixel.data.dataset import read_pair
from perpixel.data.datasets.synthetic import CLASSES, SyntheticStreets
from perpixel.data.init import propose
from perpixel.data.registry import open_dataset
from perpixel.errors import PerpixelError
from perpixel.io.images import read_image, read_mask, read_palette
from perpixel.recipes import overrides
from perpixel.recipes import recipe as recipe_called
from perpixel.training.run_logger import rows

_BATCH = 100
_HANG_SECONDS = 60

Door = Callable[[Path], object]


def mutations(folder: Path, asked: Namespace) -> list[tuple[str, int, str]]:
    """`--mutations` of all kinds of files in turn; raises SystemExit at the first fault."""
    doors, count, seed = _originals(folder), asked.mutations, asked.seed
    ends: Counter[str] = Counter()
    for first in range(0, count, _BATCH):
        numbers = range(first, min(first + _BATCH, count))
        ends += _apart(folder, doors, numbers, seed)
    if (folder / "code-has-run").exists():
        raise SystemExit(f"a file has run code (seed {seed})")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    outcome = (
        f"no crash, hang or other error: {ends['refused']} refused, {ends['read']} read; "
        f"at most {peak:.1f} GiB"
    )
    return [(f"mutations of {len(doors)} kinds of files (seed {seed})", count, outcome)]


def _apart(folder: Path, doors: list[tuple[Path, Door]], numbers: range, seed: int) -> Counter[str]:
    """The same in a child process, which says its last number before each."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        quiet = os.open(os.devnull, os.O_WRONLY)  # what decoders print
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        with os.fdopen(tell, "w", buffering=1) as out:
            for number in numbers:
                faulthandler.dump_traceback_later(_HANG_SECONDS, exit=True)
                out.write(f"at {number}\n")
                out.write(f"{_try(folder, doors, number, seed)}\n")
        os._exit(0)
    os.close(tell)
    with os.fdopen(told) as lines:
        said = lines.read().splitlines()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    odd = [line for line in said if not line.startswith(("at ", "read", "refused"))]
    if odd or code:
        raise SystemExit(f"seed {seed}: {odd or f'a crash or hang ({code}) {said[-1]}'}")
    return Counter(line for line in said if not line.startswith("at "))


def _try(folder: Path, doors: list[tuple[Path, Door]], number: int, seed: int) -> str:
    original, door = doors[number % len(doors)]
    rng = random.Random(f"{seed} {number}")
    place = folder / f"mutated-{os.getpid()}" / original.name
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(mutated(original.read_bytes(), rng, text=original.suffix in _TEXT))
    try:
        door(place)
    except PerpixelError as error:
        named = str(place.parent) in str(error)
        return "refused" if named else f"{number}: {original.name}: does not name it: {error}"
    except BaseException as error:
        return f"{number}: {original.name}: {error!r}".replace("\n", " ")[:500]
    return "read"


_TEXT = (".toml", ".json", ".jsonl", ".csv", ".txt", ".yaml")
_WORDS = (
    b"null", b"-1", b"99999999999999999999", b"1e999", b"[]", b"{}", b'""', b"true", b"\x00",
    b"[" * 5000, b"../../..", b"/etc/passwd", "ß☃".encode(), b"\xff\xfe", b"'", b"=", b"\n",
)  # fmt: skip


def mutated(content: bytes, rng: random.Random, *, text: bool) -> bytes:
    """Some bytes changed, cut, repeated, taken from elsewhere in the file, or words put in."""
    result = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        # Headers are at the front, and of more consequence.
        reach = len(result) if rng.random() < 0.5 else min(len(result), 300)
        at = rng.randrange(reach) if reach else 0
        size = min(rng.choice((1, 1, 2, 4, 8, 64, 1000)), len(result) - at)
        match rng.randrange(8 if not text else 10):
            case 0 if result:
                result[at] ^= 1 << rng.randrange(8)
            case 1:
                result[at : at + size] = rng.randbytes(size)
            case 2:
                result[at : at + size] = rng.choice((b"\x00", b"\xff", b"\x7f")) * size
            case 3:
                del result[at:]
            case 4:
                del result[at : at + size]
            case 5:
                result[at:at] = result[at : at + size]
            case 6 if result:
                other = rng.randrange(len(result))
                result[at : at + size] = result[other : other + size]
            case 7:
                result[at:at] = rng.randbytes(size)
            case _:
                result[at : at + size] = rng.choice(_WORDS)
    return bytes(result)


def _originals(folder: Path) -> list[tuple[Path, Door]]:
    scenes = SyntheticStreets("train", count=1, size=(48, 64))
    image, label = Image.fromarray(scenes.image(0)), scenes.label(0)
    place = folder / "originals"
    place.mkdir()
    doors: list[tuple[Path, Door]] = []

    def add(name: str, content: bytes, door: Door) -> None:
        (place / name).write_bytes(content)
        doors.append((place / name, door))

    for name in ("a.png", "b.jpg", "c.webp", "d.bmp", "e.tif"):
        add(name, _saved(image, name), read_image)
    add("top.png", _saved(image, "top.png"), lambda path: read_image(path, rows=10))
    add("deep.png", _saved(Image.fromarray(label.astype(np.uint16) * 99), "x.png"), read_image)
    add("cmyk.jpg", _saved(image.convert("CMYK"), "x.jpg"), read_image)
    add("alpha.png", _saved(image.convert("RGBA"), "x.png"), read_image)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = io.BytesIO()
    image.save(turned, "jpeg", exif=exif)
    add("turned.jpg", turned.getvalue(), read_image)

    gray, palette = Image.fromarray(label), Image.fromarray(label)
    palette.putpalette(bytes(range(256)) * 3)
    add("gray.png", _saved(gray, "x.png"), read_mask)
    add("palette.png", _saved(palette, "x.png"), _mask_and_palette)
    add("palette.tif", _saved(palette, "x.tif"), _mask_and_palette)
    for name, compression in (("signed.tif", None), ("deflate.tif", "deflate")):
        signed, numbers = io.BytesIO(), label.astype(np.int16)
        tifffile.imwrite(signed, numbers, compression=compression, tile=(16, 16))
        add(name, signed.getvalue(), _mask_and_palette)
    bands = io.BytesIO()
    tifffile.imwrite(bands, scenes.image(0).repeat(2, axis=2), photometric="minisblack")
    add("bands.tif", bands.getvalue(), lambda path: read_image(path, bands=(4, 3, 6)))
    add("mask.gif", _saved(palette, "x.gif"), _mask_and_palette)
    array = io.BytesIO()
    np.save(array, label.astype(np.int32))
    add("mask.npy", array.getvalue(), read_mask)
    add("sixteen.png", _saved(Image.fromarray(label.astype(np.uint16)), "x.png"), read_mask)
    add("colors.bmp", _saved(image, "x.bmp"), read_mask)
    matlab = io.BytesIO()
    savemat(matlab, {"GTcls": {"Segmentation": label}}, do_compression=True)
    add("labels.mat", matlab.getvalue(), read_mask)

    root = place / "pairs"
    for kind, content in (("images", _saved(image, "x.png")), ("masks", _saved(gray, "x.png"))):
        (root / kind).mkdir(parents=True)
        (root / kind / "a.png").write_bytes(content)
    names = ", ".join(f'"{name}"' for name in CLASSES.names)
    exported = {
        "_classes.csv": "".join(f"{i}, {name}\n" for i, name in enumerate(CLASSES.names)),
        "train.txt": "images/a.png masks/a.png\n",
        "data.yaml": f"names: [{names}]\n",
    }
    for name, text in exported.items():
        add(name, text.encode(), lambda path: _propose(path, root))

    toml = (
        f"classes = {list(CLASSES.names)}\nignored_ids = [255]\n\n"
        '[splits.val]\nimages = "images"\nmasks = "masks"\n'
    )
    add("dataset.toml", toml.encode(), lambda path: _open_folder(path, root))

    box = [3, 3, 40, 3, 40, 30, 3, 30]
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "height": 48, "width": 64}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [box]}],
    }
    shape = {"label": "cat", "points": [[3, 3], [40, 3], [9, 30]], "shape_type": "polygon"}
    labelme = {"imagePath": "a.png", "imageHeight": 48, "imageWidth": 64, "shapes": [shape]}
    add("coco.json", json.dumps(coco).encode(), lambda path: _convert(path, root, "coco.json"))
    add("labelme.json", json.dumps(labelme).encode(), lambda path: _convert(path, root, "a.json"))
    add(
        "yolo.txt",
        b"0 0.1 0.1 0.9 0.1 0.5 0.9\n",
        lambda path: _convert(path, root, "labels/a.txt"),
    )

    recipe = overrides.override(
        recipe_called("scenes/fcn_r18-d8"),
        ["model.head.channels=1", "train.steps=9", "augment.crop_size=32x32", "train.batch_size=2"],
    )
    tensors = {"head.classifier.weight": torch.zeros(7, 1), "head.classifier.bias": torch.zeros(7)}
    small = Checkpoint(recipe, CLASSES.names, CLASSES.palette, tensors, step=3)
    write_checkpoint(place / "small.safetensors", small)
    doors.append((place / "small.safetensors", read_checkpoint))
    state = {"meta": {"CLASSES": CLASSES.names}, "state_dict": tensors}
    for name, zipped in (("weights.pth", True), ("legacy.pth", False)):
        content = io.BytesIO()
        torch.save(state, content, _use_new_zipfile_serialization=zipped)
        add(name, content.getvalue(), read_source)
    poison = f"cos\nsystem\n(S'touch {folder}/code-has-run'\ntR."
    add("poison.pkl", b"\x80\x02" + poison.encode(), read_source)
    add("recipe.json", overrides.dump(recipe).encode(), _load_recipe)
    log = b'{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n'
    add("metrics.jsonl", log, lambda path: rows(path, up_to=5))
    return doors


def _saved(image: Image.Image, name: str) -> bytes:
    content = io.BytesIO()
    image.save(content, Image.registered_extensions()[Path(name).suffix])
    return content.getvalue()


def _mask_and_palette(path: Path) -> None:
    read_mask(path)
    read_palette(path)


def _open_folder(path: Path, root: Path) -> None:
    for kind in ("images", "masks"):
        link = path.parent / kind
        if not link.exists():
            link.symlink_to(root / kind)
    found = open_dataset("folder", path.parent, "val")
    read_pair(found, 0)


def _propose(path: Path, root: Path) -> None:
    """What `data init` does in a folder of a pair and the file."""
    folder = path.parent / f"with-{path.name}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(root, folder)
    shutil.copy(path, folder)
    propose(folder)


def _convert(path: Path, root: Path, name: str) -> None:
    """What `data convert` does with the file, under `name`, beside an image."""
    folder = path.parent / f"with-{path.name}"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / name).parent.mkdir(parents=True)
    shutil.copy(root / "images" / "a.png", folder)
    shutil.copy(path, folder / name)
    convert(folder)


def _load_recipe(path: Path) -> None:
    overrides.load(path.read_text(errors="replace"), origin=str(path))
