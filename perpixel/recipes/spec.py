"""The vocabulary of a recipe: frozen, typed values, with no torch and no I/O.

A recipe says everything that decides the numbers of a run and nothing about the machine it runs on.
Sizes are (height, width) unless a field says otherwise.
"""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from perpixel.recipes.base import Portion, Positive, Share, Size, Spec
from perpixel.recipes.network import Model

IGNORE = 255
"""The label of a pixel without a class, in every class map."""


class Input(Spec):
    """What the network is fed: (pixel - mean) / std on 0..255 values, in this channel order.

    Pictures are padded at the bottom and right with normalised zeros to a multiple of
    `size_divisor`.
    """

    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (58.395, 57.12, 57.375)
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
    `cross_entropy`, `label_smoothing` gives that share of a pixel's label to all classes alike, and
    its class's weight counts for the whole (torch weighs each class's part by itself). `mean`
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
            raise ValueError("one of cross_entropy, focal, dice and lovasz must be above 0")
        if not (self.cross_entropy or self.focal) and (self.class_weights or self.ohem):
            raise ValueError("class_weights and ohem apply to cross_entropy and focal, which are 0")
        if self.class_weights is not None and not any(self.class_weights):
            raise ValueError("one of class_weights must be above 0")
        if self.label_smoothing and not self.cross_entropy:
            raise ValueError("label_smoothing applies to cross_entropy, which is 0")
        return self


class Optimizer(Spec):
    """SGD with momentum, or AdamW (Loshchilov and Hutter, 2019).

    `momentum` is SGD's, `betas` AdamW's. All that has one dimension, norms and biases, decays, too,
    unless `decay_norms` is off.
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
    `base_size`, flip and `max_class_share` stay, and smaller pictures are padded.
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
    `compile` is torch.compile's mode; "reduce-overhead" uses CUDA graphs. Two save memory
    and change no result: with `recompute_activations` what follows a norm is computed again in the
    backward pass, with `recompute_stages` all inside these stages of the ResNet.
    `ema` b keeps an exponential moving average of weights and batch norm's statistics, b old +
    (1 - b) new after step i, with (1 + i) / (10 + i) for b where that is less (TensorFlow's
    ExponentialMovingAverage): it is what is evaluated, and the model. `finish` ends the run.
    """

    steps: Positive = 40_000
    images_per_step: Positive = 8
    accumulate: Positive = 1
    init: Download | None = None
    crop: Size = (512, 1024)
    finish: Finish | None = None
    ema: Portion = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    precision: Literal["auto", "float32", "tf32", "bfloat16", "float16"] = "auto"
    compile: Literal["off", "default", "reduce-overhead"] = "off"
    recompute_activations: bool = False
    recompute_stages: tuple[Literal[1, 2, 3, 4], ...] = ()
    log_every: Positive = 50
    save_every: Positive = 2000
    keep: Positive = 2
    max_skipped: Annotated[int, Field(ge=0)] = 3
    max_damaged: Share = 0.01

    @property
    def finish_steps(self) -> int:
        """How many steps at the end are the finish's."""
        return round(self.steps * self.finish.share) if self.finish else 0

    @property
    def last_crop(self) -> Size:
        """What the network saw in the end, (height, width)."""
        return self.finish.crop if self.finish and self.finish_steps else self.crop


class Inference(Spec):
    """How a picture becomes a class map.

    `base_size` (long side, short side) is the box a picture is fitted into first, keeping its
    shape; None takes it as it is. "whole" pads a picture that is smaller than `pad_to` with black
    at the bottom and right, and cuts the padding off its logits. "slide" averages the logits of
    overlapping windows of `crop` (None: the last training crop), `stride` (None: two thirds of it)
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
    scales: tuple[Annotated[float, Field(gt=0, le=10)], ...] = (1.0,)
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
