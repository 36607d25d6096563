"""Published trunks that are timm's backbones here: their names in timm's.

Tables are as in conversion/names.py, without the "backbone." before both names; timm's are those of
its whole models. Sources: mmsegmentation mmseg/models/backbones/hrnet.py, mobilenet_v2.py,
resnest.py and twins.py, mmpretrain models/backbones/poolformer.py, PVTv2-Seg pvtv2.py, RepViT
segmentation/repvit.py and XCiT semantic_segmentation/backbone/xcit.py.
"""

import re
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor

from perpixel.conversion.names import NameMap
from perpixel.models.timm_backbone import TimmBackbone, list_models
from perpixel.recipes.models import FCN, Timm


def timm_name(name: str) -> str:
    """Returns timm's name of a backbone's weight, whose features have "body.stages_0.".

    They stand for "stages.0." of the whole model.
    """
    if not name.startswith("body."):
        return name
    return re.sub(r"_(?=\d+\.)", ".", name.removeprefix("body.").removeprefix("model."))


_TIMM = Timm()


@dataclass(frozen=True)
class Trunk:
    """The names of a family's published trunks.

    `timm` is a pattern of timm's names, `marker` one of a weight's name that no other trunk has.
    `name_map`, or what it makes of a file's names, translates; with `same_names` a name without a
    row is timm's. `spec` is the model that names do not show, `fcn` the FCN head where it is not
    the toolkit's own. The sources test on images stretched to multiples of `resize_to_multiple`.
    `prepare` splits what is one tensor in the file.
    """

    timm: str
    marker: str
    name_map: NameMap | Callable[[Iterable[str]], NameMap]
    spec: Timm = _TIMM
    fcn: FCN | None = None
    same_names: bool = False
    resize_to_multiple: int = 1
    prepare: Callable[[MutableMapping[str, Tensor]], None] | None = None

    def rows(self, names: Iterable[str]) -> NameMap:
        """Returns the table for a file with these names."""
        rows = self.name_map if isinstance(self.name_map, tuple) else self.name_map(names)
        if self.same_names:
            rows = (*rows, ("{*}", "{*}"))
        return tuple(
            (f"backbone.{theirs}", ours if ours.startswith("head.") else f"backbone.{ours}")
            for theirs, ours in rows
        )


def trunk_of(names: Iterable[str]) -> Trunk | None:
    """Returns the trunk whose marker is among a file's names; None for a ResNet's and others."""
    names = list(names)
    for trunk in TRUNKS:
        if any(re.fullmatch(trunk.marker, name) for name in names):
            return trunk
    return None


def backbone_of(trunk: Trunk, shapes: Mapping[str, tuple[int, ...]], like: Timm | None) -> Timm:
    """Returns the backbone whose weights are nearest to those of a file, by timm's names.

    `like` is taken unseen, so that a file's differences to a recipe are found later.
    """
    if like is not None:
        return like
    theirs = {(name, shape) for name, shape in shapes.items() if name.startswith("backbone.")}
    specs = [trunk.spec.model_copy(update={"name": name}) for name in list_models(trunk.timm)]
    return min(specs, key=lambda spec: len(theirs ^ _weights(spec)))


def _weights(spec: Timm) -> set[tuple[str, tuple[int, ...]]]:
    """Returns timm's name and the shape of every weight of a backbone."""
    with torch.device("meta"):
        state = TimmBackbone(spec).state_dict()
    return {(f"backbone.{timm_name(name)}", tuple(value.shape)) for name, value in state.items()}


def _repvit_rows(names: Iterable[str]) -> NameMap:
    """Numbers the blocks of stages, which the file counts from the first to the last.

    A block that downsamples has a plain convolution in place of the first mixer; timm holds it and
    the block before it as `downsample`.
    """
    pattern = re.compile(r"backbone\.features\.(\d+)\.(token_mixer\.0\.c\.weight)?.*")
    matches = [match for match in map(pattern.fullmatch, names) if match]
    downsampling = sorted({int(match[1]) for match in matches if match[2]})
    rows = [
        ("features.0.0.{*}", "stem.conv1.{*}"),
        ("features.0.2.{*}", "stem.conv2.{*}"),
    ]
    stage, first = 0, 1
    for index in range(1, max((int(match[1]) for match in matches), default=0) + 1):
        theirs = f"features.{index}"
        if index in downsampling:
            stage, first = stage + 1, index + 1
            ours, parts = f"stages.{stage}.downsample", _REPVIT_DOWNSAMPLE
        elif index + 1 in downsampling:
            ours, parts = f"stages.{stage + 1}.downsample.pre_block", _REPVIT_BLOCK
        else:
            ours, parts = f"stages.{stage}.blocks.{index - first}", _REPVIT_BLOCK
        rows += [(f"{theirs}.{old}.{{*}}", f"{ours}.{new}.{{*}}") for old, new in parts]
    return tuple(rows)


_REPVIT_BLOCK = (
    ("token_mixer.0",     "token_mixer"),
    ("token_mixer.1",     "se"),
    ("channel_mixer.m.0", "channel_mixer.conv1"),
    ("channel_mixer.m.2", "channel_mixer.conv2"),
)  # fmt: skip

_REPVIT_DOWNSAMPLE = (
    ("token_mixer.0",     "spatial_downsample"),
    ("token_mixer.2",     "channel_downsample"),
    ("channel_mixer.m.0", "ffn.conv1"),
    ("channel_mixer.m.2", "ffn.conv2"),
)  # fmt: skip


def _split_attention(tensors: MutableMapping[str, Tensor]) -> None:
    """Splits torch's in_proj of query, key and value into timm's q and kv."""
    for name in [name for name in tensors if ".attn.in_proj_" in name]:
        prefix, _, parameter = name.partition("in_proj_")
        query, *key_and_value = tensors.pop(name).chunk(3)
        tensors[f"{prefix}q.{parameter}"] = query.contiguous()
        tensors[f"{prefix}kv.{parameter}"] = torch.cat(key_and_value)


TRUNKS = (
    Trunk(
        "poolformer_*",
        r"backbone\.network\.\d+\.\d+\.layer_scale_1",
        (
            ("patch_embed.proj",                        "stem.conv"),
            ("network.{2k}.{b}.layer_scale_{j}",      "stages.{k}.blocks.{b}.layer_scale{j}.scale"),
            ("network.{2k}.{b}.norm{j}",                "stages.{k}.blocks.{b}.norm{j}"),
            ("network.{2k}.{b}.mlp.fc{j}",              "stages.{k}.blocks.{b}.mlp.fc{j}"),
            ("network.{2k+1}.proj",                     "stages.{k+1}.downsample.conv"),
            ("norm{2k}",                                "head.norms.{k}"),
        ),
        resize_to_multiple=32,
    ),
    Trunk(
        "pvt_v2_*",
        r"backbone\.block1\.0\.mlp\.dwconv\.dwconv\.weight",
        (
            ("patch_embed1.{*}",                        "patch_embed.{*}"),
            ("patch_embed{k+1}.{*}",                    "stages.{k}.downsample.{*}"),
            ("block{k+1}.{b}.mlp.dwconv.dwconv",        "stages.{k}.blocks.{b}.mlp.dwconv"),
            ("block{k+1}.{b}.{*}",                      "stages.{k}.blocks.{b}.{*}"),
            ("norm{k+1}",                               "stages.{k}.norm"),
        ),
        resize_to_multiple=32,
    ),
    Trunk(
        "twins_pcpvt_*",
        r"backbone\.layers\.0\.0\.attn\.attn\.in_proj_weight",
        (
            ("patch_embeds.{k}.projection",             "patch_embeds.{k}.proj"),
            ("patch_embeds.{k}.norm",                   "patch_embeds.{k}.norm"),
            ("layers.{k}.{b}.norm{j}",                  "blocks.{k}.{b}.norm{j}"),
            ("layers.{k}.{b}.attn.attn.out_proj",       "blocks.{k}.{b}.attn.proj"),
            ("layers.{k}.{b}.attn.attn.q",              "blocks.{k}.{b}.attn.q"),
            ("layers.{k}.{b}.attn.attn.kv",             "blocks.{k}.{b}.attn.kv"),
            ("layers.{k}.{b}.attn.sr",                  "blocks.{k}.{b}.attn.sr"),
            ("layers.{k}.{b}.attn.norm",                "blocks.{k}.{b}.attn.norm"),
            ("layers.{k}.{b}.ffn.layers.0.0",           "blocks.{k}.{b}.mlp.fc1"),
            ("layers.{k}.{b}.ffn.layers.1",             "blocks.{k}.{b}.mlp.fc2"),
            ("position_encodings.{k}.proj",             "pos_block.{k}.proj.0"),
        ),
        Timm(as_published=True),
        prepare=_split_attention,
    ),
    Trunk(
        "hrnet_*",
        r"backbone\.transition1\.0\.0\.weight",
        (),
        Timm(as_published=True),
        fcn=FCN(num_convs=1, kernel_size=1, inputs="all", dropout=0.0),
        same_names=True,
    ),
    Trunk(
        "repvit_m*",
        r"backbone\.features\.0\.0\.c\.weight",
        _repvit_rows,
        Timm(as_published=True),
        resize_to_multiple=32,
    ),
    Trunk(
        "mobilenetv2_*",
        r"backbone\.layer1\.0\.conv\.0\.conv\.weight",
        (
            ("conv1.conv",                              "conv_stem"),
            ("conv1.bn",                                "bn1"),
            ("layer1.0.conv.0.conv",                    "blocks.0.0.conv_dw"),
            ("layer1.0.conv.0.bn",                      "blocks.0.0.bn1"),
            ("layer1.0.conv.1.conv",                    "blocks.0.0.conv_pw"),
            ("layer1.0.conv.1.bn",                      "blocks.0.0.bn2"),
            ("layer{k+1}.{b}.conv.0.conv",              "blocks.{k}.{b}.conv_pw"),
            ("layer{k+1}.{b}.conv.1.conv",              "blocks.{k}.{b}.conv_dw"),
            ("layer{k+1}.{b}.conv.2.conv",              "blocks.{k}.{b}.conv_pwl"),
            ("layer{k+1}.{b}.conv.{j}.bn",              "blocks.{k}.{b}.bn{j+1}"),
        ),
        Timm(as_published=True, output_stride=8),
    ),
    Trunk(
        "resnest*",
        r"backbone\.layer1\.0\.conv2\.bn0\.weight",
        (
            ("stem.7",                                  "bn1"),
            ("stem.{k}",                                "conv1.{k}"),
        ),
        Timm(as_published=True, output_stride=8),
        same_names=True,
    ),
    Trunk(
        "xcit_*",
        r"backbone\.pos_embeder\.token_projection\.weight",
        (
            ("fpn{k+1}.{*}",                            "head.pyramid.{k}.{*}"),
            ("pos_embeder.{*}",                         "pos_embed.{*}"),
        ),
        Timm(as_published=True),
        same_names=True,
    ),
)  # fmt: skip
