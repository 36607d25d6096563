"""What makes training's steps faster or smaller, and no other."""

from perpixel.errors import UsageError
from perpixel.models.compiling import compile_network
from perpixel.models.resnet import ResNet
from perpixel.models.segmenter import Segmenter
from perpixel.recipes.spec import Train


def economise(network: Segmenter, spec: Train) -> Segmenter:
    """`network`, which recomputes the spec's stages and compiles itself at its first call.

    It is the same object with the same key names. Raises UsageError when its backbone
    has no such stages, there is nothing to compile with, CUDA graphs meet several passes, or
    what is compiled is to compute activations again.
    """
    if spec.recompute_stages:
        if not isinstance(network.backbone, ResNet):
            raise UsageError(
                f"train.recompute_stages={list(spec.recompute_stages)} needs a ResNet backbone: "
                f"set it to []"
            )
        network.backbone.recomputed = spec.recompute_stages
    if spec.compile == "reduce-overhead" and spec.accumulate > 1:
        raise UsageError(
            "train.compile=reduce-overhead with train.accumulate above 1: a CUDA graph's second "
            "pass would write over the gradients of its first; set one to default or to 1"
        )
    if spec.compile != "off" and spec.recompute_activations:
        raise UsageError(
            f"train.recompute_activations=true with train.compile={spec.compile}: compiled code "
            f"keeps what torch.compile chooses; set one to false or to off"
        )
    if spec.compile != "off":
        # Each size by itself, so that a run resumed with its second goes on with the same kernels.
        compile_network(network, mode=spec.compile, dynamic=False)
    return network
