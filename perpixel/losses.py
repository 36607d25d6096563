"""Training losses of logits at the head's own stride."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from perpixel.errors import UsageError, plural
from perpixel.ops.fused_cross_entropy import pixel_cross_entropy
from perpixel.recipes.schema import IGNORE_INDEX, OHEM, Loss


def segmentation_loss(
    logits: Tensor, labels: Tensor, spec: Loss, *, align_corners: bool = False
) -> Tensor:
    """The sum of `spec`'s terms on bilinearly upsampled logits: a scalar, float32 or the logits'
    float64.

    logits: [N, num_classes, h, w]; labels: [N, H, W] integers, 0..num_classes-1 or 255 where there
    is no label. Without any labeled pixel the loss is 0 and so are its gradients. Raises
    UsageError when `spec.class_weights` are not as many as the classes.
    """
    exact = logits if logits.dtype == torch.float64 else logits.float()
    loss = exact.new_zeros(())
    if spec.cross_entropy or spec.focal:
        check_class_weights(spec, exact.shape[1])
        weights = None if spec.class_weights is None else exact.new_tensor(spec.class_weights)
        smoothed = plain = pixel_cross_entropy(
            logits, labels, align_corners=align_corners, smoothing=spec.label_smoothing
        )
        if spec.label_smoothing and (spec.focal or spec.ohem):  # which ask for p
            plain = pixel_cross_entropy(logits, labels, align_corners=align_corners)
        total = _pixel_sum(smoothed, plain, labels, spec, weights)
        count = loss_denominator(labels, spec)
        loss = loss + total / count.where(count > 0, 1)  # 0: every pixel's loss is 0, too
    if spec.dice or spec.lovasz:  # whose terms compare whole maps
        size = labels.shape[-2:]
        full = interpolate(exact, size=size, mode="bilinear", align_corners=align_corners)
        known, labels = labels != IGNORE_INDEX, labels.long()
        probabilities, truth = full.softmax(dim=1).movedim(1, -1)[known], labels[known]
        if spec.dice:
            loss = loss + spec.dice * dice_loss(probabilities, truth)
        if spec.lovasz:
            loss = loss + spec.lovasz * lovasz_softmax(probabilities, truth)
    return loss


def check_class_weights(spec: Loss, num_classes: int) -> None:
    """Raises UsageError unless there are no class weights, or one for every class."""
    if spec.class_weights is not None and len(spec.class_weights) != num_classes:
        raise UsageError(
            f"loss.class_weights has {plural(len(spec.class_weights), 'number')} for "
            f"{plural(num_classes, 'class')}: give one for each; `perpixel data check` prints them"
        )


def loss_denominator(labels: Tensor, spec: Loss) -> Tensor:
    """Returns what the pixels' loss of these labels is divided by, a float32 scalar.

    labels: [N, H, W] integers. Means of parts of a batch, each times its share of all weights, sum
    up to the mean of the whole.
    """
    if spec.reduction == "sum":
        return labels.new_tensor(len(labels), dtype=torch.float32)
    if not spec.avg_non_ignore:
        return labels.new_tensor(labels.numel(), dtype=torch.float32)
    if spec.class_weights is None:
        return (labels != IGNORE_INDEX).sum().float()
    weights = torch.zeros(IGNORE_INDEX + 1, dtype=torch.float32, device=labels.device)
    weights[: len(spec.class_weights)] = weights.new_tensor(spec.class_weights)
    return weights[labels.long()].sum()  # unlabeled pixels count nothing


def dice_loss(probabilities: Tensor, truth: Tensor) -> Tensor:
    """1 - D, averaged over the classes in `truth`; 0 without pixels.

    D = 2 sum(p g) / (sum(p^2) + sum(g^2)) over all pixels, p the probability of the class and g 1
    where it is the label, else 0 (Milletari et al., 2016, "V-Net", section 3).
    probabilities: [pixels, num_classes]; truth: [pixels], 0..num_classes-1.
    """
    member = truth[:, None] == torch.arange(probabilities.shape[1], device=truth.device)
    area = member.sum(dim=0)
    present = area > 0  # an absent class's D is 0 whatever the model says
    overlap = (probabilities * member).sum(dim=0)[present]
    areas = ((probabilities**2).sum(dim=0) + area)[present]
    return (1 - 2 * overlap / areas).sum() / present.sum().clamp(min=1)


def lovasz_softmax(probabilities: Tensor, truth: Tensor) -> Tensor:
    """The Lovasz extension of the Jaccard loss, averaged over the classes in `truth`; 0 without
    pixels.

    The errors of a class, 1 - p at its pixels and p elsewhere, from the largest on, each times
    the rise of the Jaccard loss when that pixel joins the wrong ones (Berman et al., 2018,
    section 3.2 and algorithm 1). All images of a batch count as one.
    probabilities: [pixels, num_classes]; truth: [pixels], 0..num_classes-1.
    """
    losses = []
    for index in truth.bincount().nonzero().flatten().tolist():
        member = truth == index
        errors, order = (
            (member.to(probabilities.dtype) - probabilities[:, index]).abs().sort(descending=True)
        )
        members = member[order].long()
        # float64: the rises are differences of numbers near 1.
        intersection = (members.sum() - members.cumsum(0)).double()
        union = members.sum() + (1 - members).cumsum(0)
        jaccard = 1 - intersection / union
        rises = jaccard.diff(prepend=jaccard.new_zeros(1))
        losses.append(errors @ rises.to(errors.dtype))
    return torch.stack(losses).mean() if losses else probabilities.sum()


def _pixel_sum(
    smoothed: Tensor, plain: Tensor, labels: Tensor, spec: Loss, weights: Tensor | None
) -> Tensor:
    """Returns the weighted cross-entropy and focal loss, summed over the pixels.

    `plain` and `smoothed` are -log p of the labels, [N, H, W], `smoothed` with label smoothing.
    The focal loss is w (1 - p)^gamma (-log p), with p the label's probability and w its class's
    weight (Lin et al., 2017, equation 5, of the softmax in place of the sigmoid).
    """
    known = labels != IGNORE_INDEX
    pixels = spec.cross_entropy * smoothed
    if spec.focal:
        doubt = (-torch.expm1(-plain)).clamp(min=torch.finfo(plain.dtype).tiny)
        pixels = pixels + spec.focal * doubt**spec.focal_gamma * plain
    if weights is not None:
        pixels = pixels * weights[labels.where(known, 0).long()]
    if spec.ohem is not None:
        pixels = pixels * _hard(pixels.detach(), plain.detach(), known, spec.ohem)
    return pixels.sum()


def _hard(pixels: Tensor, plain: Tensor, known: Tensor, spec: OHEM) -> Tensor:
    """Which pixels are hard, bool [N, H, W] (mmseg/core/seg/sampler/ohem_pixel_sampler.py).

    pixels: their losses; plain: -log p of the label; known: where there is a label.
    """
    count = spec.min_kept * len(known)
    if spec.threshold is None:
        hardest = pixels[known].argsort(descending=True)[:count]
        chosen = torch.zeros_like(pixels[known], dtype=torch.bool)
        chosen[hardest] = True
        return torch.zeros_like(known).masked_scatter(known, chosen)
    chances = (-plain).exp()
    ascending = chances[known].sort().values
    if not len(ascending):
        return known
    return known & (chances < ascending[min(count, len(ascending) - 1)].clamp(min=spec.threshold))
