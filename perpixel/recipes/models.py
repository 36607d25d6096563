"""The specs of a recipe's model: backbones, heads, auxiliary head."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, assert_never

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator
from pydantic_core import PydanticCustomError

from perpixel.recipes.base import HalfOpenUnit, PositiveInt, Spec, UnitInterval


class Custom(Spec):
    """Base class of CustomBackbone and CustomHead.

    A subclass gives `type` a Literal of its own name as default. Then a recipe can hold it, and it
    is written to checkpoints and read from them where its module was imported before
    (examples/custom_head.py).
    """

    type: str

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Raises TypeError for a subclass without a name, or with the name of a built-in one."""
        super().__pydantic_init_subclass__(**kwargs)
        name = cls.model_fields["type"].default
        if Custom in cls.__bases__:
            return
        if not isinstance(name, str):
            raise TypeError(f'{cls.__name__} needs a name: type: Literal["name"] = "name"')
        if name in ("resnet", "timm", "vgg16", "caffenet", "fcn", "semantic_fpn", "fcn_skip"):
            raise TypeError(f"{cls.__name__}: the type {name!r} is taken; give it another name")


def _parse_by_type(*specs: type[Spec], custom: type[Custom]) -> BeforeValidator:
    """Validator that makes a spec of {"type": name, ...}, or of a custom subclass."""

    def parse(value: Any) -> Any:
        if isinstance(value, Spec):
            return value
        known = {spec.model_fields["type"].default: spec for spec in specs}
        for spec in _subclasses(custom):
            known.setdefault(spec.model_fields["type"].default, spec)
        names = ", ".join(map(repr, known))
        if not isinstance(value, Mapping):
            raise PydanticCustomError(
                "no_settings", "This is a group of settings; its type is one of {names}",
                {"names": names},
            )  # fmt: skip
        name = value.get("type")
        if not isinstance(name, str) or name not in known:
            raise PydanticCustomError(
                "unknown_type",
                "There are {names}; a custom one is known once its module was imported",
                {"names": names},
            )
        return known[name].model_validate(value)

    return BeforeValidator(parse)


def _subclasses(spec: type[Spec]) -> Iterator[type[Spec]]:
    for subclass in spec.__subclasses__():
        yield from (subclass, *_subclasses(subclass))


class ResNet(Spec):
    """ResNet (He et al., 2015, table 1), dilated to `output_stride`.

    `stem` "deep" is three 3x3 convolutions of half, half and all `base_channels` ("v1c" of
    open-mmlab).
    `stride_in_1x1` puts a bottleneck's stride in its first 1x1 convolution (Caffe, detectron2).
    `frozen_bn` holds batch norm's statistics and scale as constants (detectron2).
    `zero_init_residual` starts every residual branch at zero (Goyal et al., 2017, section 5.1);
    it has no effect where norms are frozen. `base_channels` are the stem's, 64 in every published
    model; each stage has twice as many as the one before.
    """

    type: Literal["resnet"] = "resnet"
    depth: Literal[18, 34, 50, 101] = 50
    stem: Literal["7x7", "deep"] = "7x7"
    output_stride: Literal[8, 16, 32] = 32
    stride_in_1x1: bool = False
    frozen_bn: bool = False
    zero_init_residual: bool = False
    base_channels: Annotated[int, Field(ge=2, multiple_of=2)] = 64


class Timm(Spec):
    """A backbone of the timm library, by its name there, with features at up to four strides.

    The recipe's `input` must have the normalization that timm's weights were trained with. Of a
    plain ViT, whose blocks have one stride, `final_norm` normalizes features by the layer norm that
    ends it (DINOv2). `as_published` changes timm's model to that of the family's published
    segmentation code where features differ (perpixel/models/published_trunks.py has the list).
    `drop_path` is timm's drop_path_rate, the probability in training that an image leaves out a
    residual branch (stochastic depth, Huang et al., 2016), which rises over the blocks in most
    models; None is timm's default for the model, 0 in most.
    """

    type: Literal["timm"] = "timm"
    name: str = "convnext_tiny"
    output_stride: Literal[8, 16, 32] = 32
    final_norm: bool = False
    as_published: bool = False
    drop_path: HalfOpenUnit | None = None


class VGG16(Spec):
    """VGG-16 (Simonyan and Zisserman, 2014, table 1, D) up to fc7, for FCN-32s, -16s and -8s.

    `base_channels` are the first stage's, 64 in every published model. `dropout`, after fc6 and
    fc7, is of single values ("element", Caffe) or of whole feature maps ("channel", pytorch-fcn).
    """

    type: Literal["vgg16"] = "vgg16"
    base_channels: PositiveInt = 64
    fc_channels: PositiveInt = 4096
    dropout: UnitInterval = 0.5
    dropout_type: Literal["channel", "element"] = "element"
    output_stride: Literal[32] = 32


class CaffeNet(Spec):
    """Caffe's AlexNet (Krizhevsky et al., 2012) up to fc7, for FCN-AlexNet; see VGG16."""

    type: Literal["caffenet"] = "caffenet"
    fc_channels: PositiveInt = 4096
    dropout: UnitInterval = 0.5
    dropout_type: Literal["channel", "element"] = "element"
    output_stride: Literal[32] = 32


class CustomBackbone(Custom):
    """Base class of the settings of a custom backbone (see Custom).

    `output_stride` is that of its last features.
    """

    output_stride: PositiveInt = 32

    @abstractmethod
    def build(self) -> Any:
        """Builds the backbone, a torch.nn.Module that has initialized its weights.

        It maps normalized images [N, 3, H, W] to a list of features [N, C, h, w], finest first,
        and has an attribute `out_channels`, their C. Semantic FPN needs strides 4, 8, 16 and 32.
        """


Backbone = Annotated[
    SerializeAsAny[ResNet | Timm | VGG16 | CaffeNet | CustomBackbone],
    _parse_by_type(ResNet, Timm, VGG16, CaffeNet, custom=CustomBackbone),
]


class FCN(Spec):
    """Convolutions on the last stage and a 1x1 classifier (Long et al., 2015; the toolkits' heads).

    `concat_input` appends the backbone's features to the head's and fuses them with one more
    convolution (mmsegmentation). `dropout_type` "channel" drops whole feature maps (Dropout2d),
    "element" single values (torchvision). `input_norm` puts a batch norm before everything; with
    `num_convs` 0 that is DINOv2's linear probe. `inputs` "all" is for all of the backbone's
    features, resized to the finest and concatenated (HRNet in mmsegmentation).
    """

    type: Literal["fcn"] = "fcn"
    inputs: Literal["last", "all"] = "last"
    num_convs: Annotated[int, Field(ge=0, le=16)] = 2
    channels: PositiveInt = 512
    kernel_size: Literal[1, 3] = 3
    dilation: PositiveInt = 1
    concat_input: bool = False
    input_norm: bool = False
    dropout: UnitInterval = 0.1
    dropout_type: Literal["channel", "element"] = "channel"

    @model_validator(mode="after")
    def _fuse_needs_convs(self) -> "FCN":
        if self.concat_input and self.num_convs == 0:
            raise ValueError("concat_input needs at least one convolution (num_convs >= 1)")
        return self


class SemanticFPN(Spec):
    """A feature pyramid merged at stride 4 (Kirillov et al., 2019, "Panoptic FPN", section 3).

    `fpn_norm` gives the neck's convolutions batch norm and ReLU in place of a bias
    (sssegmentation). `norm` "group" uses GroupNorm with 32 groups in the scale heads (detectron2).
    `input_norm` puts a GroupNorm of one group on each of the backbone's features (PoolFormer).
    """

    type: Literal["semantic_fpn"] = "semantic_fpn"
    input_norm: bool = False
    fpn_channels: PositiveInt = 256
    fpn_norm: bool = False
    channels: PositiveInt = 128
    norm: Literal["batch", "group"] = "batch"
    dropout: UnitInterval = 0.1

    @model_validator(mode="after")
    def _groups_divide_width(self) -> "SemanticFPN":
        if self.norm == "group" and self.channels % 32:
            raise ValueError(
                f"norm=group has 32 groups: channels={self.channels} is not a multiple of 32"
            )
        return self


class FCNSkip(Spec):
    """The original FCN's scores, skips and deconvolutions (Long et al., 2015, section 4.2).

    `stride` is that of the scores before the last deconvolution: 32 (FCN-32s), 16, which adds
    scores of pool4, or 8, which adds those of pool3, too. `skip_scales` multiply pool4 and pool3
    before their scores, by 0.01 and 0.0001 in FCN-8s trained at once; others have none.
    Deconvolutions stay bilinear, but with `learned_upsampling` all except the last are trained (the
    paper; fixed in the released models).
    """

    type: Literal["fcn_skip"] = "fcn_skip"
    stride: Literal[8, 16, 32] = 8
    skip_scales: tuple[float, float] = (1.0, 1.0)
    learned_upsampling: bool = False

    @property
    def starts_from_a_stage(self) -> bool:
        """Whether it is trained in stages, and has one before it (Long et al., 2015, 4.3)."""
        return self.stride < 32 and self.skip_scales == (1, 1)

    @model_validator(mode="after")
    def _scales_are_of_fcn_8s(self) -> "FCNSkip":
        if self.stride != 8 and self.skip_scales != (1, 1):
            raise ValueError(f"skip_scales are for stride=8, and stride is {self.stride}")
        return self


class CustomHead(Custom):
    """Base class of the settings of a custom head (see Custom)."""

    @abstractmethod
    def build(self, in_channels: Sequence[int], num_classes: int, *, align_corners: bool) -> Any:
        """Builds the head, a torch.nn.Module that has initialized its weights.

        It maps the backbone's features, a list of [N, in_channels[i], h, w] from the finest to the
        coarsest, to logits [N, num_classes, h, w] at any stride.
        """


Head = Annotated[
    SerializeAsAny[FCN | SemanticFPN | FCNSkip | CustomHead],
    _parse_by_type(FCN, SemanticFPN, FCNSkip, custom=CustomHead),
]


def backbone_name(backbone: ResNet | Timm | VGG16 | CaffeNet | CustomBackbone) -> str:
    """Returns a backbone's name, as for tables."""
    match backbone:
        case ResNet():
            return f"ResNet-{backbone.depth}"
        case Timm():
            return backbone.name
        case VGG16():
            return "VGG-16"
        case CaffeNet():
            return "CaffeNet"
        case CustomBackbone():
            return backbone.type
        case _:
            assert_never(backbone)


def method_name(head: FCN | SemanticFPN | FCNSkip | CustomHead) -> str:
    """Returns the name of the method that has this head."""
    match head:
        case FCN():
            return "FCN"
        case SemanticFPN():
            return "Semantic FPN"
        case FCNSkip():
            return f"FCN-{head.stride}s"
        case CustomHead():
            return head.type
        case _:
            assert_never(head)


class Auxiliary(Spec):
    """A small FCN head on the third stage, used in training only.

    `num_classes` is set only where a published checkpoint's auxiliary head has other classes than
    its main head (mmsegmentation's Pascal Context files of 2020).
    """

    num_convs: Annotated[int, Field(gt=0, le=16)] = 1
    channels: PositiveInt = 256
    dilation: PositiveInt = 1
    dropout: UnitInterval = 0.1
    dropout_type: Literal["channel", "element"] = "channel"
    num_classes: PositiveInt | None = None


class Model(Spec):
    """Backbone and heads.

    `align_corners` holds for every bilinear resize of its logits, in training and testing, and
    inside Semantic FPN's head.
    """

    backbone: Backbone = ResNet()
    head: Head = FCN()
    aux_head: Auxiliary | None = None
    align_corners: bool = False

    @model_validator(mode="after")
    def _trunk_and_skips_go_together(self) -> "Model":
        head, backbone = self.head, self.backbone
        if isinstance(head, FCNSkip) != isinstance(backbone, VGG16 | CaffeNet):
            raise ValueError(
                f"a head of type fcn_skip and a backbone of type vgg16 or caffenet are made for "
                f"each other, and here are {head.type} and {backbone.type}"
            )
        if isinstance(head, FCNSkip):
            if self.aux_head is not None:
                raise ValueError("fcn_skip has no auxiliary head: set model.aux_head=none")
            if isinstance(backbone, CaffeNet) and head.stride != 32:
                raise ValueError(
                    f"caffenet has no skips: set model.head.stride=32, not {head.stride}"
                )
        return self
