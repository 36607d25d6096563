"""sssegmentation's first table of FCN, of 2020-11-01 (commit 7ba6a041).

It differs from the later one in align_corners and, on VOC, in a tenth of the learning rate for the
backbone. The Cityscapes rows were printed without figures, and no weights were published.

Not reproduced, and so the figures are not to be expected: that commit swapped height and width
when it resized images, in training and in testing (an image of 500x375 became 512 wide and 682
high), and cut sides to whole numbers. What `sssegmentation.py` says of initialization, batches and
loss holds here too.
"""

from perpixel.recipes.published import FCN_PAPER
from perpixel.recipes.schema import Published, Recipe
from perpixel.recipes.sssegmentation import RECIPES as _LATER
from perpixel.recipes.sssegmentation import SETTINGS

_COMMIT = "7ba6a041"
_MIOU: dict[str, tuple[float | None, ...]] = {  # by data set, as in SETTINGS
    "resnet50os8": (64.73, 35.72, None),
    "resnet50os16": (66.80, 35.15, None),
    "resnet101os8": (71.10, 40.07, None),
    "resnet101os16": (71.17, 38.67, None),
}


def _legacy(later: Recipe) -> Recipe:
    config = later.name.partition("/")[2]
    _, backbone, dataset = config.split("_")
    column = list(SETTINGS).index(dataset)
    row = column * len(_MIOU) + list(_MIOU).index(backbone) + 1
    scale = 0.1 if dataset == "voc" else 1.0
    return later.model_copy(
        update={
            "name": f"sssegmentation-legacy/{config}",
            "source": f"sssegmentation at {_COMMIT}, docs/fcn/README.md (table 002, row {row}); "
            + FCN_PAPER,
            "model": later.model.model_copy(update={"align_corners": True}),
            "optimizer": later.optimizer.model_copy(update={"backbone_lr_mult": scale}),
            "published": Published(
                miou=_MIOU[backbone][column],
                config_url=f"ssseg/cfgs/fcn/cfgs_{dataset}_{backbone}.py@{_COMMIT}",
            ),
        }
    )


RECIPES = tuple(_legacy(later) for later in _LATER if later.model.head.type == "fcn")
