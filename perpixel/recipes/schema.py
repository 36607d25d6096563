"""The parts of a recipe: frozen, typed values, without torch and I/O.

A recipe holds everything that determines a run's results and nothing about its machine.
Sizes are (height, width) unless a field says otherwise.
"""

import math
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from perpixel.errors import UsageError
from perpixel.recipes.base import HalfOpenUnit, PositiveInt, Size, Spec, UnitInterval
from perpixel.recipes.models import Model, ResNet, Timm

IGNORE_INDEX = 255
"""The value of a pixel without a class, in every mask."""


Bands = tuple[PositiveInt, PositiveInt, PositiveInt]


class Input(Spec):
    """A model's input: (pixel - mean) / std of 0..255 values, in this channel order.

    Images are padded at the bottom and right with normalized zeros to a multiple of `size_divisor`.
    `bands`, counted from 1, are those of an image file in the place of red, green and blue.
    """

    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (58.395, 57.12, 57.375)
    channel_order: Literal["rgb", "bgr"] = "rgb"
    size_divisor: PositiveInt = 1
    bands: Bands | None = None


class DatasetInput(Spec):
    """What a data set says of its models' input, whose recipe takes it over for training.

    `mean` and `std` of 0..255 values are in the order of its images' `bands`, as `Input` has them.
    """

    bands: Bands | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None


class Data(Spec):
    """The data set, and its splits for training and evaluation.

    Every image and mask is resized to `resize` before anything else, in training and in evaluation,
    so that scores count the resized masks' pixels; a prediction still has its image's own size.
    """

    name: str
    train_split: str = "train"
    eval_split: str = "val"
    resize: Size | None = None


class Photometric(Spec):
    """Random color distortion, each kind with probability 1/2 (SSD, Liu et al., 2016, 2.2)."""

    brightness: Annotated[float, Field(ge=0)] = 32
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: Annotated[int, Field(ge=0, le=89)] = 18


class Augment(Spec):
    """Augmentation of a training image, in this order: scale, rotate, crop, flip, color, pad.

    `base_size` (long side, short side) is the box an image is fitted into, keeping its shape,
    before a random scale factor out of `scale_range`; None starts from the image's own size. A crop
    of `crop_size` in which one class covers `cat_max_ratio` or more of the labeled pixels is drawn
    again, up to `crop_attempts` draws in all; the last is kept. Pixels are counted on a grid of at
    least 128 points a side. Without a `crop_size` images stay whole, and those of a batch are
    padded to the largest of them. `flip_prob` is the probability of a horizontal flip,
    `vertical_flip_prob` that of a vertical one. With probability `rotate90_prob` the image is
    rotated by 0, 90, 180 or 270 degrees, each equally likely (albumentations' RandomRotate90), and
    then cropped, so that crops need not be square. The last two suit images without an up and a
    down, as from above or through a microscope.

    With `enabled` off nothing is random, whatever the other settings say, and no image is cropped:
    it is fitted into `base_size`, scaled down if it is larger than `crop_size`, and padded to that.
    """

    enabled: bool = True
    base_size: Size | None = None
    scale_range: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.5, 2.0)
    crop_size: Size | None = (512, 1024)
    cat_max_ratio: UnitInterval = 0.75
    crop_attempts: PositiveInt = 10
    flip_prob: UnitInterval = 0.5
    vertical_flip_prob: UnitInterval = 0.0
    rotate90_prob: UnitInterval = 0.0
    photometric: Photometric | None = Photometric()
    pad: Literal["bottom-right", "center"] = "bottom-right"
    pad_value: Literal["mean", "black"] = "mean"

    @model_validator(mode="after")
    def _scale_in_order(self) -> "Augment":
        if self.scale_range[0] > self.scale_range[1]:
            raise ValueError(f"scale_range runs from small to large, not {self.scale_range}")
        return self


Weight = Annotated[float, Field(ge=0)]


class OHEM(Spec):
    """Online hard example mining: only hard pixels count (mmsegmentation's OHEMPixelSampler).

    A pixel is hard if its label has a probability below `threshold`, or below that of the pixel at
    rank `min_kept` * images from the hardest, where that is higher. With `threshold` None exactly
    so many pixels of the greatest loss count. The mean still divides as without OHEM.
    """

    threshold: UnitInterval | None = 0.7
    min_kept: PositiveInt = 100_000


class Loss(Spec):
    """A weighted sum of terms on the upsampled logits; unlabeled pixels never count in any.

    `cross_entropy` and `focal` (Lin et al., 2017, with exponent `focal_gamma`) are sums over
    pixels, to which `class_weights`, one for every class, and `ohem` apply. In `cross_entropy`,
    `label_smoothing` spreads that fraction of a pixel's label evenly over all classes, and the
    label's class weight applies to the sum (torch applies each class's own weight). With
    `avg_non_ignore` they are divided by the labeled pixels, each counted with its class's weight,
    otherwise by all pixels (mmsegmentation's default); with `reduction` "sum" by the number of
    images alone (Caffe's unnormalized loss), whatever `avg_non_ignore` says. `dice` (Milletari et
    al., 2016) and `lovasz` (Berman et al., 2018) compare areas, averaged over the classes of one
    rank's micro-batch.
    """

    cross_entropy: Weight = 1.0
    focal: Weight = 0.0
    dice: Weight = 0.0
    lovasz: Weight = 0.0
    focal_gamma: Annotated[float, Field(ge=0)] = 2.0
    label_smoothing: HalfOpenUnit = 0.0
    class_weights: tuple[Weight, ...] | None = None
    ohem: OHEM | None = None
    avg_non_ignore: bool = True
    reduction: Literal["mean", "sum"] = "mean"
    aux_weight: Weight = 0.4

    @model_validator(mode="after")
    def _something_to_learn(self) -> "Loss":
        if not any((self.cross_entropy, self.focal, self.dice, self.lovasz)):
            raise ValueError("one of cross_entropy, focal, dice and lovasz must be above 0")
        if not (self.cross_entropy or self.focal) and (self.class_weights or self.ohem):
            raise ValueError("class_weights and ohem apply to cross_entropy and focal, which are 0")
        if self.reduction == "sum" and (self.dice or self.lovasz):
            raise ValueError("reduction=sum beside dice or lovasz, which would be lost in it")
        if self.class_weights is not None and not any(self.class_weights):
            raise ValueError("one of class_weights must be above 0")
        if self.label_smoothing and not self.cross_entropy:
            raise ValueError("label_smoothing applies to cross_entropy, which is 0")
        return self


class Optimizer(Spec):
    """SGD with momentum, or AdamW (Loshchilov and Hutter, 2019).

    `momentum` is SGD's, `betas` AdamW's. Weight decay applies to norms and biases (parameters of
    one dimension), too, unless `decay_norm_and_bias` is off; it never applies to parameters with
    one of the texts `no_decay` in their name, as "norm" (mmsegmentation's custom_keys with
    decay_mult=0). The backbone's learning rate is `backbone_lr_mult` times the head's; 0 keeps its
    weights, while its batch norms still follow the images (`train.freeze` keeps both). With
    `layer_decay` d it is also multiplied by d^k in the backbone's k-th layer from the top, the last
    being the first (BEiT, Bao et al., 2021; timm.optim.param_groups_layer_decay): a layer is what
    timm says it is, such as a ViT's block, and a stage of our ResNet. That of biases is
    `bias_lr_mult` times their layer's. A gradient of a larger L2 norm than `clip_grad_norm`, over
    all parameters that are trained, is scaled down to it (Pascanu et al., 2013, algorithm 1).
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0, le=1e38)] = 0.01
    momentum: HalfOpenUnit = 0.9
    betas: tuple[HalfOpenUnit, HalfOpenUnit] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    decay_norm_and_bias: bool = True
    no_decay: tuple[str, ...] = ()
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    backbone_lr_mult: Annotated[float, Field(ge=0)] = 1.0
    bias_lr_mult: PositiveFloat = 1.0
    clip_grad_norm: PositiveFloat | None = None


class Schedule(Spec):
    """The learning rate of steps i = 0..N-1: lr_i = (lr - min_lr) * left(i/N) + min_lr.

    left(t) is (1 - t)^power in "poly" (polynomial decay), and (1 + cos(pi t)) / 2 in "cosine"
    (Loshchilov and Hutter, 2017, equation 5). `min_lr_at_last_step` uses i/(N-1), so that the last
    step runs at `min_lr` (mmsegmentation 1.x). In the first W = `warmup` * N steps the rate is also
    multiplied by (i + 1) / (W + 1) (Goyal et al., 2017, section 2.2), or with `warmup_from` r by
    1 - (1 - i/W) (1 - r), which begins at r (mmcv's linear warm-up).
    """

    policy: Literal["poly", "cosine"] = "poly"
    warmup: UnitInterval = 0.0
    warmup_from: UnitInterval | None = None
    power: Annotated[float, Field(ge=0)] = 0.9
    min_lr: Annotated[float, Field(ge=0)] = 1e-4
    min_lr_at_last_step: bool = False


class Download(Spec):
    """A file to download, and the first eight or more hex digits of its sha256."""

    url: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]


class FinalPhase(Spec):
    """The last `fraction` of a run's steps: crops of `crop_size`, without random scale and colors.

    Small crops train fast; the last steps use images as large as in testing (Jegou et al., 2017,
    4.1). `base_size`, rotation, flips and `cat_max_ratio` still apply, and smaller images are
    padded.
    """

    fraction: UnitInterval
    crop_size: Size


AUTO_EPOCHS = 150
AUTO_STEPS = 400, 20_000
"""Fine-tuning needs some hundred steps, however few the images, and gains little by more."""


class Train(Spec):
    """A run's length, batches, precision and checkpoints; `batch_size` is that of all ranks.

    `epochs` passes over the training images replace `steps` when a run starts and their number is
    known: "auto" are AUTO_EPOCHS, but no fewer and no more steps than AUTO_STEPS. A step's images
    go through the model in `grad_accum_steps` micro-batches, whose gradients are summed. The last
    `keep_last` checkpoints are kept to resume from. A step whose loss or gradient is not finite is
    skipped, but at most `max_nonfinite_steps` in a row. An image that cannot be decoded is replaced
    by another, up to the fraction `max_corrupt_fraction` of all that were seen, counting an epoch
    at least. `pretrained` is the file that the backbone starts from, or "imagenet", the one that
    torchvision or timm publishes for it; without it, random weights. `freeze` keeps the backbone's
    parts up to and including the one it names as they are, weights and batch norm's statistics
    (mmsegmentation's frozen_stages): "stem", "stage1" to "stage3" of a ResNet, or the whole
    "backbone"; what is frozen needs no gradients, and so less memory and time. With `norm_eval` the
    backbone's batch norms use and keep the statistics they start with, while their scale and shift
    are trained (mmsegmentation's norm_eval). `cache_features` computes a frozen backbone's features
    of each image once, keeps them on disk and trains the heads on them; images must be the same
    each time (`augment.enabled` off). `compile` is torch.compile's mode; "reduce-overhead" uses
    CUDA graphs. `activation_checkpointing` saves memory and changes no result: inside a ResNet's
    stages "norms" recomputes norms and activations in the backward pass, "stages" convolutions,
    too. `ema_decay` b keeps an exponential moving average of weights and batch norm's statistics, b
    old + (1 - b) new after step i, with (1 + i) / (10 + i) for b where that is less (TensorFlow's
    ExponentialMovingAverage): the average is evaluated and saved as the model. `final_phase` is the
    last part of the run.
    """

    steps: PositiveInt = 40_000
    epochs: PositiveInt | Literal["auto"] | None = None
    batch_size: PositiveInt = 8
    grad_accum_steps: PositiveInt = 1
    pretrained: Download | Literal["imagenet"] | None = None
    final_phase: FinalPhase | None = None
    freeze: Literal["off", "stem", "stage1", "stage2", "stage3", "backbone"] = "off"
    norm_eval: bool = False
    cache_features: bool = False
    ema_decay: HalfOpenUnit = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    precision: Literal["auto", "float32", "tf32", "bfloat16", "float16"] = "auto"
    compile: Literal["off", "default", "reduce-overhead"] = "off"
    activation_checkpointing: Literal["off", "norms", "stages"] = "off"
    log_every: PositiveInt = 50
    save_every: PositiveInt = 2000
    keep_last: PositiveInt = 2
    max_nonfinite_steps: Annotated[int, Field(ge=0)] = 3
    max_corrupt_fraction: UnitInterval = 0.01

    @model_validator(mode="after")
    def _compiles(self) -> "Train":
        if self.compile == "reduce-overhead" and self.grad_accum_steps > 1:
            raise ValueError(
                "compile=reduce-overhead with grad_accum_steps above 1: a CUDA graph's second pass "
                "would write over the gradients of its first; set one to default or to 1"
            )
        if self.compile != "off" and self.activation_checkpointing == "norms":
            raise ValueError(
                f"activation_checkpointing=norms with compile={self.compile}: torch.compile "
                f"chooses what to recompute; set one of them to off"
            )
        return self

    @property
    def final_phase_steps(self) -> int:
        """The number of steps in the final phase."""
        return round(self.steps * self.final_phase.fraction) if self.final_phase else 0


class Inference(Spec):
    """How a mask is predicted from an image.

    `base_size` (long side, short side) is the box that an image is fitted into first, keeping its
    aspect ratio; None keeps its size. `resize_to_multiple` then stretches it until both sides are
    multiples (mmsegmentation's ResizeToMultiple). "whole" pads an image smaller than `pad_to` with
    black at the bottom and right, and crops the padding off its logits. "slide" averages the logits
    of overlapping windows of `window_size` (None: the last training crop), `stride` (None: two
    thirds of it) apart; "blend" weights them by a Hann window, so that windows' borders are
    invisible. `resize_logits_twice` upsamples logits to the model's input size and from there to
    the image's (mmsegmentation); otherwise in one step. `tta_average` says what is averaged over
    scales and flips: class probabilities (mmsegmentation) or logits (sssegmentation).
    """

    base_size: Size | None = None
    resize_to_multiple: PositiveInt = 1
    mode: Literal["whole", "slide", "blend"] = "whole"
    pad_to: Size | None = None
    window_size: Size | None = None
    stride: Size | None = None
    resize_logits_twice: bool = False
    scales: tuple[Annotated[float, Field(gt=0, le=10)], ...] = (1.0,)
    flip: bool = False
    tta_average: Literal["probabilities", "logits"] = "probabilities"

    @model_validator(mode="after")
    def _windows_leave_no_gaps(self) -> "Inference":
        if not self.scales:
            raise ValueError("scales names at least one factor")
        if self.stride is not None:
            if self.window_size is None:
                raise ValueError("a stride needs a window_size beside it")
            if self.stride[0] > self.window_size[0] or self.stride[1] > self.window_size[1]:
                raise ValueError(
                    f"stride {self.stride} leaves gaps between windows of {self.window_size}"
                )
        return self


class Evaluate(Spec):
    """Evaluation after each `every` steps, or each `fraction` of a run's steps, and at the end.

    `every` takes the place of `fraction`; with neither there is one evaluation, at the end. With
    `patience` N the run ends early, once N evaluations in a row brought no better mIoU than the
    best before them. The learning rate still falls as in a run of `train.steps`.
    """

    every: PositiveInt | None = None
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    patience: PositiveInt | None = None

    @model_validator(mode="after")
    def _has_evaluations_to_count(self) -> "Evaluate":
        if self.patience is not None and self.every is None and self.fraction is None:
            raise ValueError(
                f"patience={self.patience} counts evaluations, and there are none before the end: "
                f"set evaluate.every, too"
            )
        return self


class PublishedProfile(Spec):
    """A source's figures for one image of `size`; `gflops` counts multiply and add as two."""

    size: Size
    machine: str
    fps: float
    gflops: float
    mparams: float


class Published(Spec):
    """A source's figures for a training: mIoU in percent, training memory, frames per second.

    `weights_sha1` is the weights' hash, where the source's sha256 is not part of their name.
    """

    miou: float | None = None
    miou_ms_flip: float | None = None
    memory_gb: float | None = None
    fps: float | None = None
    config_url: str | None = None
    weights_url: str | None = None
    weights_sha1: str | None = None
    log_url: str | None = None
    profiles: tuple[PublishedProfile, ...] = ()


class Recipe(Spec):
    """A complete training: data, model, settings, and the figures that its source reports."""

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

    @model_validator(mode="after")
    def _rate_can_fall(self) -> "Recipe":
        if self.schedule.min_lr > self.optimizer.lr:
            raise ValueError(
                f"schedule.min_lr={self.schedule.min_lr} is above optimizer.lr="
                f"{self.optimizer.lr}: set schedule.min_lr to less, as 0"
            )
        return self

    @model_validator(mode="after")
    def _whole_images_have_no_size(self) -> "Recipe":
        if self.augment.crop_size is None and self.train.compile != "off":
            raise ValueError("train.compile is for one crop size: set it to off for whole images")
        inference = self.inference
        if not self.crop_sizes and inference.mode != "whole" and inference.window_size is None:
            raise ValueError(
                f"inference.mode={inference.mode} needs an inference.window_size, as training on "
                f"whole images gives none"
            )
        return self

    @model_validator(mode="after")
    def _has_the_parts_to_freeze(self) -> "Recipe":
        freeze, backbone = self.train.freeze, self.model.backbone
        parts = ["off", "backbone"] + ["stem"] * isinstance(backbone, Timm)
        if freeze not in parts and not isinstance(backbone, ResNet):
            raise ValueError(
                f"train.freeze={freeze} is a part of a ResNet, and the backbone is of type "
                f"{backbone.type}: set train.freeze=backbone, which freezes all of it, or off"
            )
        return self

    @model_validator(mode="after")
    def _has_layers(self) -> "Recipe":
        layer_decay, backbone = self.optimizer.layer_decay, self.model.backbone
        if layer_decay != 1 and not isinstance(backbone, ResNet | Timm):
            raise ValueError(
                f"optimizer.layer_decay={layer_decay} is for backbones of type resnet or timm, and "
                f"this one is of type {backbone.type}: set optimizer.layer_decay=1"
            )
        return self

    @model_validator(mode="after")
    def _features_can_be_cached(self) -> "Recipe":
        needed = {
            "train.freeze=backbone": self.train.freeze == "backbone",
            "augment.enabled=false": not self.augment.enabled,
            "train.final_phase=null": self.train.final_phase is None,
            "augment.crop_size=HxW, into which whole images are fitted,": bool(self.crop_sizes),
        }
        missing = [setting for setting, is_set in needed.items() if not is_set]
        if self.train.cache_features and missing:
            raise ValueError(
                f"train.cache_features=true is for a frozen backbone that sees an image the same "
                f"each time: set {' and '.join(missing)} too, or train.cache_features=false"
            )
        return self

    def with_steps(self, images: int) -> "Recipe":
        """Returns the recipe with the `train.steps` that `train.epochs` of `images` are."""
        epochs, steps = self.train.epochs, self.train.steps
        if epochs is None:
            return self
        if epochs == "auto":
            least, most = AUTO_STEPS
            steps = min(max(math.ceil(AUTO_EPOCHS * images / self.train.batch_size), least), most)
        else:
            steps = math.ceil(epochs * images / self.train.batch_size)
        return self.model_copy(update={"train": self.train.model_copy(update={"steps": steps})})

    @property
    def evaluate_every(self) -> int | None:
        """The number of steps between evaluations; None for one at the end."""
        every, fraction = self.evaluate.every, self.evaluate.fraction
        if every is None and fraction is not None:
            return max(round(fraction * self.train.steps), 1)
        return every

    @property
    def crop_sizes(self) -> tuple[Size, ...]:
        """The training crops' sizes, the final phase's last; () for whole images."""
        final, first = self.train.final_phase, self.augment.crop_size
        last = final.crop_size if final and self.train.final_phase_steps else None
        return tuple(size for size in (first, last) if size is not None)

    @property
    def last_crop_size(self) -> Size:
        """The size of the last training crops; raises UsageError for a recipe of whole images."""
        if not self.crop_sizes:
            raise UsageError(
                f"{self.name} trains on whole images, so that there is no usual size: name one"
            )
        return self.crop_sizes[-1]

    @property
    def window_size(self) -> Size:
        """The size of sliding windows, (height, width)."""
        return self.inference.window_size or self.last_crop_size
