"""The vocabulary of a recipe: frozen, typed values, with no torch and no I/O.

A recipe says everything that decides the numbers of a run and nothing about the machine it runs on.
Sizes are (height, width) unless a field says otherwise.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

Size = tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
Share = Annotated[float, Field(ge=0, le=1)]
Portion = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]

IGNORE = 255
"""The label of a pixel without a class, in every class map."""


class Spec(BaseModel):
    """A frozen value; an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ResNet(Spec):
    """ResNet (He et al., 2015, table 1), dilated to the wanted output stride.

    `stem` "deep" is three 3x3 convolutions of 32, 32 and 64 channels (the "v1c" of open-mmlab).
    `stride_in_1x1` puts a bottleneck's stride in its first 1x1 convolution (Caffe, detectron2).
    `frozen_norm` holds batch norm's statistics and scale as constants (detectron2).
    `zero_init_residual` starts every residual branch at zero (Goyal et al., 2017, section 5.1).
    """

    kind: Literal["resnet"] = "resnet"
    depth: Literal[18, 34, 50, 101] = 50
    stem: Literal["7x7", "deep"] = "7x7"
    output_stride: Literal[8, 16, 32] = 32
    stride_in_1x1: bool = False
    frozen_norm: bool = False
    zero_init_residual: bool = False


class Timm(Spec):
    """A backbone of the timm library by its name there, with features at four strides or fewer.

    Its weights and normalisation are timm's matter: `input` is to say what they were trained on.
    """

    kind: Literal["timm"] = "timm"
    name: str = "convnext_tiny"
    output_stride: Literal[8, 16, 32] = 32


def _kind_of_backbone(value: object) -> str:
    """Recipes of before there were kinds say none, and are of a ResNet."""
    kind = value.get("kind", "resnet") if isinstance(value, dict) else getattr(value, "kind", None)
    return str(kind)


Backbone = Annotated[
    Annotated[ResNet, Tag("resnet")] | Annotated[Timm, Tag("timm")],
    Discriminator(_kind_of_backbone),
]


class FCN(Spec):
    """Convolutions on the last stage and a 1x1 classifier (Long et al., 2015; the toolkits' heads).

    `concat_input` appends the backbone's features to the head's and fuses them with one more
    convolution (mmsegmentation). `dropout_kind` "channel" drops whole feature maps (Dropout2d),
    "element" single values (torchvision).
    """

    kind: Literal["fcn"] = "fcn"
    convs: Annotated[int, Field(ge=0, le=16)] = 2
    width: Positive = 512
    kernel: Literal[1, 3] = 3
    dilation: Positive = 1
    concat_input: bool = False
    dropout: Share = 0.1
    dropout_kind: Literal["channel", "element"] = "channel"

    @model_validator(mode="after")
    def _fuse_needs_convs(self) -> "FCN":
        if self.concat_input and self.convs == 0:
            raise ValueError("concat_input needs at least one convolution (convs >= 1)")
        return self


class SemanticFPN(Spec):
    """A feature pyramid merged at stride 4 (Kirillov et al., 2019, "Panoptic FPN", section 3).

    `neck_norm` gives the neck's convolutions batch norm and ReLU in place of a bias
    (sssegmentation). `norm` "group" uses GroupNorm with 32 groups in the scale heads (detectron2).
    """

    kind: Literal["semantic_fpn"] = "semantic_fpn"
    neck_width: Positive = 256
    neck_norm: bool = False
    width: Positive = 128
    norm: Literal["batch", "group"] = "batch"
    dropout: Share = 0.1


class Auxiliary(Spec):
    """A small FCN head on the third stage, used in training only.

    `classes` is set only where a published checkpoint's auxiliary head counts other classes than
    its main head (mmsegmentation's Pascal Context files of 2020).
    """

    convs: Annotated[int, Field(gt=0, le=16)] = 1
    width: Positive = 256
    dropout: Share = 0.1
    dropout_kind: Literal["channel", "element"] = "channel"
    classes: Positive | None = None


class Model(Spec):
    """A network.

    `align_corners` holds for every bilinear resize of its logits, in training and testing, and
    inside Semantic FPN's head.
    """

    backbone: Backbone = ResNet()
    head: Annotated[FCN | SemanticFPN, Field(discriminator="kind")] = FCN()
    auxiliary: Auxiliary | None = None
    align_corners: bool = False


class Input(Spec):
    """What the network is fed: (pixel - mean) / std on 0..255 values, in this channel order.

    Pictures are padded at the bottom and right with normalised zeros to a multiple of
    `size_divisor`.
    """

    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    channel_order: Literal["rgb", "bgr"] = "rgb"
    size_divisor: Positive = 1


class Data(Spec):
    """Which data set, and which of its splits to train and evaluate on.

    `resize` brings every picture and label to this size before anything else, in training and in
    evaluation, so that scores count the resized labels' pixels; a prediction still has its
    picture's own size.
    """

    name: str
    train_split: str = "train"
    eval_split: str = "val"
    resize: Size | None = None


class Photometric(Spec):
    """Random colour distortion, each kind with probability 1/2 (SSD, Liu et al., 2016, 2.2)."""

    brightness: Annotated[float, Field(ge=0)] = 32
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: Annotated[int, Field(ge=0, le=89)] = 18


class Augment(Spec):
    """What happens to a training picture, in this order: scale, crop, flip, colour, pad.

    `base_size` (long side, short side) is the box a picture is fitted into, keeping its shape,
    before the random `scale`; None starts from the picture's own size. A crop in which one class
    covers `max_class_share` or more of the labelled pixels is drawn again, up to `crop_tries`
    draws in all; the last is kept. Pixels are counted on a grid of at least 128 points a side.
    """

    base_size: Size | None = None
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.5, 2.0)
    max_class_share: Share = 0.75
    crop_tries: Positive = 10
    flip: Share = 0.5
    photometric: Photometric | None = Photometric()
    pad: Literal["bottom-right", "centre"] = "bottom-right"
    pad_value: Literal["mean", "black"] = "mean"

    @model_validator(mode="after")
    def _scale_in_order(self) -> "Augment":
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale runs from small to large, not {self.scale}")
        return self


Weight = Annotated[float, Field(ge=0)]


class OHEM(Spec):
    """Only hard pixels count (mmsegmentation's OHEMPixelSampler).

    Hard is a pixel whose label has a probability below `threshold`, or below that of the pixel in
    place `min_kept` * pictures from the hardest, where that is higher. `threshold` None keeps just
    so many pixels of the greatest loss. The mean still divides as without OHEM.
    """

    threshold: Share | None = 0.7
    min_kept: Positive = 100_000


class Loss(Spec):
    """A weighted sum of terms on the enlarged logits; unlabelled pixels never count in any.

    `cross_entropy` and `focal` (Lin et al., 2017, with exponent `focal_gamma`) are sums over
    pixels, to which `class_weights`, one for every class, and `ohem` apply. In
    `cross_entropy`, `label_smoothing` gives that share of a pixel's label to all classes. `mean`
    "valid" divides them by the labelled pixels, each counted with its class's weight, "all" by all
    pixels (mmsegmentation). `dice` (Milletari et al., 2016) and `lovasz` (Berman et al., 2018)
    compare areas, averaged over the classes of a batch, which is what one rank sees in a pass.
    """

    cross_entropy: Weight = 1.0
    focal: Weight = 0.0
    dice: Weight = 0.0
    lovasz: Weight = 0.0
    focal_gamma: Annotated[float, Field(ge=0)] = 2.0
    label_smoothing: Portion = 0.0
    class_weights: tuple[Weight, ...] | None = None
    ohem: OHEM | None = None
    mean: Literal["valid", "all"] = "valid"
    auxiliary_weight: Weight = 0.4

    @model_validator(mode="after")
    def _something_to_learn(self) -> "Loss":
        if not any((self.cross_entropy, self.focal, self.dice, self.lovasz)):
            raise ValueError("one of cross_entropy, focal, dice and lovasz is above 0")
        if not (self.cross_entropy or self.focal) and (self.class_weights or self.ohem):
            raise ValueError("class_weights and ohem apply to cross_entropy and focal, which are 0")
        return self


class Optimizer(Spec):
    """SGD with momentum, or AdamW (Loshchilov and Hutter, 2019).

    `momentum` is SGD's, `betas` AdamW's. Norms and biases decay, too, unless `decay_norms` is off.
    """

    algorithm: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0, le=1e38)] = 0.01
    momentum: Portion = 0.9
    betas: tuple[Portion, Portion] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    decay_norms: bool = True
    backbone_lr_scale: Annotated[float, Field(gt=0)] = 1.0


class Schedule(Spec):
    """The learning rate of steps i = 0..N-1: lr_i = (lr - floor) * left(i/N) + floor.

    left(t) is (1 - t)^power in "poly" (polynomial decay), and (1 + cos(pi t)) / 2 in "cosine"
    (Loshchilov and Hutter, 2017, equation 5). `reaches_floor` uses i/(N-1), so that the last step
    runs at the floor (mmsegmentation 1.x). In the first W = `warmup` * N steps the rate is also
    multiplied by (i + 1) / (W + 1) (Goyal et al., 2017, section 2.2).
    """

    policy: Literal["poly", "cosine"] = "poly"
    warmup: Share = 0.0
    power: Annotated[float, Field(ge=0)] = 0.9
    floor: Annotated[float, Field(ge=0)] = 1e-4
    reaches_floor: bool = False


class Download(Spec):
    """A file on the network, and its sha256: the first eight or more hex digits of it."""

    url: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]


class Finish(Spec):
    """The last `share` of a run's steps: crops of this size, without random scale and colours.

    Small crops train fast; pictures as large as in testing finish it (Jegou et al., 2017, 4.1).
    """

    share: Share
    crop: Size


class Train(Spec):
    """The length and shape of a run; `images_per_step` counts the pictures of all ranks.

    A step's pictures go through the network in `accumulate` passes, whose gradients are summed.
    The last `keep` states are kept to resume from. A step whose loss or gradient is no number is
    skipped, but at most `max_skipped` in a row. A picture that cannot be decoded is replaced by
    another, up to the share `max_damaged` of all that were seen, counting an epoch at least.
    `init` is the ImageNet file that the backbone starts from; without it, random weights.
    `compile` is torch.compile's mode; "reduce-overhead" uses CUDA graphs. `recompute_stages` saves
    memory: the features inside these stages of the ResNet are computed again in the backward pass.
    `average` b keeps b old + (1 - b) new weights after each step: these are the model then.
    """

    steps: Positive = 40_000
    images_per_step: Positive = 8
    accumulate: Positive = 1
    init: Download | None = None
    crop: Size = (512, 1024)
    finish: Finish | None = None
    average: Portion = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = "auto"
    compile: Literal["off", "default", "reduce-overhead"] = "off"
    recompute_stages: tuple[Literal[1, 2, 3, 4], ...] = ()
    log_every: Positive = 50
    save_every: Positive = 2000
    keep: Positive = 2
    max_skipped: Annotated[int, Field(ge=0)] = 3
    max_damaged: Share = 0.01


class Inference(Spec):
    """How a picture becomes a class map.

    `base_size` (long side, short side) is the box a picture is fitted into first, keeping its
    shape; None takes it as it is. "whole" pads a picture that is smaller than `pad_to` with black
    at the bottom and right, and cuts the padding off its logits. "slide" averages the logits of
    overlapping windows of `crop` (None: the training crop), `stride` (None: two thirds of it)
    apart; "blend" weights them by Hann's window, so that no border of a window shows. `two_resizes`
    enlarges logits to the network's input size and from there to the picture's (mmsegmentation);
    otherwise in one step. `average` says what is averaged over scales and flips: class
    probabilities (mmsegmentation) or logits (sssegmentation).
    """

    base_size: Size | None = None
    windows: Literal["whole", "slide", "blend"] = "whole"
    pad_to: Size | None = None
    crop: Size | None = None
    stride: Size | None = None
    two_resizes: bool = False
    scales: tuple[Annotated[float, Field(gt=0)], ...] = (1.0,)
    flip: bool = False
    average: Literal["probabilities", "logits"] = "probabilities"

    @model_validator(mode="after")
    def _windows_leave_no_gaps(self) -> "Inference":
        if not self.scales:
            raise ValueError("scales names at least one factor")
        if self.stride is not None:
            if self.crop is None:
                raise ValueError("a stride needs a crop beside it")
            if self.stride[0] > self.crop[0] or self.stride[1] > self.crop[1]:
                raise ValueError(f"stride {self.stride} leaves gaps between crops of {self.crop}")
        return self


class Evaluate(Spec):
    """`every` so many steps, and at the end; `every` None evaluates at the end only."""

    every: Positive | None = None


class PublishedProfile(Spec):
    """A source's figures for one picture of a size; `gflops` counts multiply and add as two."""

    size: Size
    machine: str
    fps: float
    gflops: float
    mparams: float


class Published(Spec):
    """What a source prints for a training: mIoU in percent, training memory, frames per second."""

    miou: float | None = None
    miou_ms_flip: float | None = None
    memory_gb: float | None = None
    fps: float | None = None
    config_url: str | None = None
    weights_url: str | None = None
    log_url: str | None = None
    profiles: tuple[PublishedProfile, ...] = ()


class Recipe(Spec):
    """One training, complete: what to train, on what, how, and what its source reports."""

    name: str
    source: str
    data: Data
    model: Model
    input: Input = Input()
    augment: Augment = Augment()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    train: Train = Train()
    inference: Inference = Inference()
    evaluate: Evaluate = Evaluate()
    published: Published = Published()
