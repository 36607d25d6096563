"""Masks by a file of `perpixel export`, with onnxruntime, NumPy and Pillow alone.

    python examples/onnx_predict.py MODEL.onnx IMAGE... [--out FOLDER]

Writes a PNG of class indices in the model's colors for every image, and prints each class's
fraction. A model of one fixed size gets images of that size, and its masks are resized back.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def main() -> None:
    """Reads the command line and predicts one image after another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("masks"))
    wanted = parser.parse_args()

    session = onnxruntime.InferenceSession(wanted.model, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    if entry.name != "images":
        parser.error(f"{wanted.model} takes {entry.name}; export it without --logits")
    about = session.get_modelmeta().custom_metadata_map  # every value is JSON
    names, palette = json.loads(about["class_names"]), json.loads(about["palette"])
    _, height, width, _ = entry.shape  # numbers, or names where any size will do

    wanted.out.mkdir(parents=True, exist_ok=True)
    for path in wanted.images:
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        fed = image
        if isinstance(height, int):
            fed = image.resize((width, height), Image.Resampling.BILINEAR)
        (values,) = session.run(["mask"], {"images": np.asarray(fed)[None]})
        mask = Image.fromarray(values[0]).resize(image.size, Image.Resampling.NEAREST)
        mask.putpalette([value for color in palette for value in color])
        mask.save(wanted.out / f"{path.stem}.png")
        shares = np.bincount(np.asarray(mask).ravel(), minlength=len(names)) / (
            mask.width * mask.height
        )
        found = sorted(zip(names, shares, strict=True), key=lambda pair: -pair[1])
        listed = ", ".join(f"{name} {share:.1%}" for name, share in found if share > 0)
        print(f"{path.name}: {listed}")


if __name__ == "__main__":
    main()
