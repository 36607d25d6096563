"""What a step minimises."""

import torch
from torch import Tensor, nn

from perpixel.losses import segmentation_loss
from perpixel.models.inputs import autocast, normalise
from perpixel.models.recomputing import activations_recomputed
from perpixel.models.segmenter import Logits
from perpixel.recipes.spec import Recipe
from perpixel.training.parallel import Part


def objective(network: nn.Module, part: Part, recipe: Recipe, *, dtype: torch.dtype) -> Tensor:
    """A pass's share of the step's loss, a scalar; `network` is a `Segmenter` or wraps one.

    The network computes in `dtype`, the loss in float32.
    """
    output = logits_of(network, part.images, recipe, dtype=dtype)
    return part.factor * loss_of(output, part.labels, recipe)


def logits_of(network: nn.Module, images: Tensor, recipe: Recipe, *, dtype: torch.dtype) -> Logits:
    """What the network says of some pictures, uint8 RGB [N, H, W, 3], with both heads."""
    fed = normalise(images, recipe.input)
    again = activations_recomputed(recipe.train.recompute_activations)
    with autocast(images.device, dtype), again:
        output: Logits = network(fed, auxiliary=True)
    return output


def loss_of(output: Logits, labels: Tensor, recipe: Recipe) -> Tensor:
    """The recipe's loss of logits, the auxiliary head's included; labels: uint8 [N, H, W]."""
    align = recipe.model.align_corners
    loss = segmentation_loss(output.main, labels, recipe.loss, align_corners=align)
    if output.auxiliary is not None:
        loss = loss + recipe.loss.auxiliary_weight * segmentation_loss(
            output.auxiliary, labels, recipe.loss, align_corners=align
        )
    return loss
