"""What makes training's steps faster or smaller, and no other."""

from perpixel.acceleration.compile import compile_model
from perpixel.errors import UsageError
from perpixel.models.resnet import ResNet
from perpixel.models.segmenter import Segmenter
from perpixel.recipes.schema import Train


def economise(model: Segmenter, spec: Train) -> Segmenter:
    """`model`, which recomputes the spec's stages and compiles itself at its first call.

    It is the same object with the same key names. Raises UsageError when its backbone
    has no such stages, there is nothing to compile with, CUDA graphs meet several passes, or
    what is compiled is to compute activations again.
    """
    if spec.activation_checkpointing == "stages":
        if not isinstance(model.backbone, ResNet):
            raise UsageError(
                "train.activation_checkpointing=stages needs a ResNet backbone: set it to off"
            )
        model.backbone.recompute_stages = True
    if spec.compile == "reduce-overhead" and spec.grad_accum_steps > 1:
        raise UsageError(
            "train.compile=reduce-overhead with train.grad_accum_steps above 1: a CUDA graph's "
            "second pass would write over the gradients of its first; set one to default or to 1"
        )
    if spec.compile != "off" and spec.activation_checkpointing == "norms":
        raise UsageError(
            f"train.activation_checkpointing=norms with train.compile={spec.compile}: compiled "
            f"code keeps what torch.compile chooses; set one of them to off"
        )
    if spec.compile != "off":
        # Each size by itself, so that a run resumed with its second goes on with the same kernels.
        compile_model(model, mode=spec.compile, dynamic=False)
    return model
