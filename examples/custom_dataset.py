"""Train on a data set of your own class: any object with images, masks and class names.

    python examples/custom_dataset.py [--steps 60] [--out runs/custom-dataset]

The images here are drawn: light disks and squares on a dark ground. Replace `Shapes` with whatever
reads your files; nothing else changes. A torch.utils.data.Dataset that returns such pairs will do.
"""

import argparse
from pathlib import Path

import numpy as np

import perpixel


class Shapes:
    """Disks and squares: the image is uint8 RGB [H, W, 3], the mask uint8 [H, W]."""

    class_names = ("ground", "disk", "square")
    palette = ((40, 40, 40), (220, 60, 60), (60, 120, 220))  # optional

    def __init__(self, count: int, *, seed: int) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        """How many samples there are."""
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Sample number `index`, the same each time it is read."""
        rng = np.random.default_rng((self.seed, index))
        mask = np.zeros((64, 64), np.uint8)
        y, x = np.mgrid[:64, :64]
        top, left, radius = *rng.integers(14, 50, 2), rng.integers(8, 14)
        mask[(y - top) ** 2 + (x - left) ** 2 < radius**2] = 1
        top, left, side = *rng.integers(0, 44, 2), rng.integers(12, 20)
        mask[top : top + side, left : left + side] = 2
        gray = np.where(mask > 0, 180, 60) + rng.normal(0, 12, mask.shape)
        return np.repeat(gray.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2), mask


def main() -> None:
    """Trains on 200 such images and scores the model on 40 others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("runs/custom-dataset"))
    given = parser.parse_args()

    recipe = perpixel.override(
        perpixel.recipe("folder/semantic_fpn_r18"),
        [
            f"train.steps={given.steps}",
            "train.batch_size=8",
            "augment.crop_size=64x64",
            "train.ema_decay=0.9",
            "evaluate.fraction=null",
        ],
    )
    run = perpixel.train(
        recipe,
        train_dataset=Shapes(200, seed=0),
        eval_dataset=Shapes(40, seed=1),
        out=given.out,
        init="none",  # without it: ImageNet weights, which are downloaded
        on_log=lambda row: print(row),
    )
    print({name: round(iou or 0, 1) for name, iou in run.scores.iou.items()})


if __name__ == "__main__":
    main()
