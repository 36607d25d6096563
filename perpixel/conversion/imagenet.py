"""Names of ImageNet files that are not timm's: torchvision's MobileNetV2, and EfficientNet-Lite.

Sources: torchvision/models/mobilenetv2.py; lukemelas/EfficientNet-PyTorch, efficientnet_pytorch/
model.py. Both number the blocks of the whole network, and timm those of each stage.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from perpixel.conversion.names import NameMap, to_perpixel_names
from perpixel.data.paths import first_few
from perpixel.errors import PerpixelError


@dataclass(frozen=True)
class ImageNetFile:
    """One package's names of a family's weights, and the timm backbones with the same layers.

    `backbones` matches timm's names; `example` is one. `anchor` is a weight's name by which a file
    is recognized, `block` matches the names of all weights in blocks. In `name_map` our side is
    timm's, with "block.{b}" for block b of the network.
    """

    origin: str
    backbones: re.Pattern[str]
    example: str
    anchor: str
    block: re.Pattern[str]
    name_map: NameMap

    def timm_names(self, names: Iterable[str], backbone_names: Iterable[str]) -> dict[str, str]:
        """Returns timm's name of each of the file's `names`, without those of the classifier.

        `backbone_names` are timm's of the backbone's weights. Raises PerpixelError where the
        backbone lacks weights of the file's blocks.
        """
        backbone_names = list(backbone_names)
        stages = [re.match(r"blocks\.\d+\.\d+(?=\.)", name) for name in backbone_names]
        blocks = dict(enumerate(dict.fromkeys(match[0] for match in stages if match)))
        translated = {
            name: re.sub(
                r"^block\.(\d+)(?=\.)", lambda match: blocks.get(int(match[1]), match[0]), timm_name
            )
            for name, timm_name in to_perpixel_names(self.name_map, names).items()
        }
        known = {name: timm for name, timm in translated.items() if timm in set(backbone_names)}
        if unknown := [name for name in names if self.block.match(name) and name not in known]:
            raise PerpixelError(
                f"these are names of {self.origin}, but the backbone, of {len(blocks)} blocks, has "
                f"no such weights as {first_few(unknown)}"
            )
        return known


IMAGENET_FILES = (
    ImageNetFile(
        origin="torchvision's MobileNetV2",
        backbones=re.compile(r"mobilenetv2_.*"),
        example="mobilenetv2_100",
        anchor="features.1.conv.0.0.weight",
        block=re.compile(r"features\.\d+\.conv\."),
        name_map=(
            ("features.0.0",            "conv_stem"),
            ("features.0.1",            "bn1"),
            ("features.1.conv.0.0",     "block.0.conv_dw"),
            ("features.1.conv.0.1",     "block.0.bn1"),
            ("features.1.conv.1",       "block.0.conv_pw"),
            ("features.1.conv.2",       "block.0.bn2"),
            ("features.{b+1}.conv.0.0", "block.{b}.conv_pw"),
            ("features.{b+1}.conv.0.1", "block.{b}.bn1"),
            ("features.{b+1}.conv.1.0", "block.{b}.conv_dw"),
            ("features.{b+1}.conv.1.1", "block.{b}.bn2"),
            ("features.{b+1}.conv.2",   "block.{b}.conv_pwl"),
            ("features.{b+1}.conv.3",   "block.{b}.bn3"),
        ),
    ),
    ImageNetFile(
        origin="EfficientNet-PyTorch",
        # timm's efficientnet_lite0 has the same shapes, but pads otherwise and has another eps.
        backbones=re.compile(r"tf_efficientnet_lite\d.*"),
        example="tf_efficientnet_lite0",
        anchor="_blocks.0._depthwise_conv.weight",
        block=re.compile(r"_blocks\."),
        name_map=(
            ("_conv_stem",                  "conv_stem"),
            ("_bn0",                        "bn1"),
            ("_blocks.0._depthwise_conv",   "block.0.conv_dw"),
            ("_blocks.0._bn1",              "block.0.bn1"),
            ("_blocks.0._project_conv",     "block.0.conv_pw"),
            ("_blocks.0._bn2",              "block.0.bn2"),
            ("_blocks.{b}._expand_conv",    "block.{b}.conv_pw"),
            ("_blocks.{b}._bn0",            "block.{b}.bn1"),
            ("_blocks.{b}._depthwise_conv", "block.{b}.conv_dw"),
            ("_blocks.{b}._bn1",            "block.{b}.bn2"),
            ("_blocks.{b}._project_conv",   "block.{b}.conv_pwl"),
            ("_blocks.{b}._bn2",            "block.{b}.bn3"),
        ),
    ),
)  # fmt: skip
