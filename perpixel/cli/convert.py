"""`perpixel convert`."""

import io
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perpixel.cli import options
from perpixel.errors import PerpixelError, UsageError, plural

if TYPE_CHECKING:
    from perpixel.checkpoints.format import Checkpoint
    from perpixel.conversion.import_ import ImportResult


def convert(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="Another toolkit's file; or a run or checkpoint."),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
    toolkit: Annotated[
        str,
        typer.Option(
            help="auto, mmseg, sssegmentation, torchvision, pytorch-auto-drive, detectron2, caffe "
            "or dinov2; for a perpixel checkpoint, the one to write for: mmseg, torchvision or "
            "caffe."
        ),
    ] = "auto",
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The recipe of its training, for what the weights do not show."
        ),
    ] = None,
    output_stride: Annotated[
        int | None,
        typer.Option(metavar="8|16|32", help="By default 8 for FCN, 32 for Semantic FPN."),
    ] = None,
    align_corners: Annotated[
        bool | None,
        typer.Option(
            "--align-corners/--no-align-corners",
            help="How logits are upsampled; by default the toolkit's own default.",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="T",
            help="For a model of one output x: class 1 is where sigmoid(x) > T.",
        ),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            metavar="staged|atonce",
            help="For an FCN-8s of caffe or pytorch-fcn: how it was trained.",
        ),
    ] = None,
    backbone: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="For a file that holds a head alone, as DINOv2's linear probes: its backbone's.",
        ),
    ] = None,
    dataset: options.Dataset = None,
    names: options.ClassNames = None,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Load a file that may execute code, in a separate process."),
    ] = False,
    half: Annotated[
        bool,
        typer.Option(
            "--half", help="For a perpixel checkpoint: write it in float16, half the size."
        ),
    ] = False,
) -> None:
    """Convert another toolkit's file to a checkpoint, or a checkpoint to another toolkit's file.

    Examples: perpixel convert fcn_r50-d8.pth fcn.safetensors, and back:
    perpixel convert fcn.safetensors fcn.pth --toolkit mmseg. Other class names:
    perpixel convert runs/a renamed.safetensors --names road,car,sky. The original FCN's:
    perpixel convert fcn8s-heavy-pascal.caffemodel fcn8s.safetensors --dataset pascal_voc
    """
    import perpixel
    from perpixel.checkpoints import zoo
    from perpixel.checkpoints.format import write_checkpoint
    from perpixel.conversion.files import is_ours
    from perpixel.conversion.import_ import import_checkpoint

    if is_ours(source):
        others = (
            recipe, output_stride, align_corners, threshold, variant, backbone, dataset,
            trust or None,
        )  # fmt: skip
        choices = half, toolkit != "auto", names is not None
        if sum(choices) != 1 or any(option is not None for option in others):
            raise UsageError(
                f"{source} is a perpixel checkpoint: give either --toolkit mmseg, torchvision "
                f"or caffe, or --half, or --names, and no other option"
            )
        checkpoint = zoo.find(source)
        _require_other_file(out, checkpoint.origin)
        if half:
            _write_half(checkpoint, out)
        elif names is not None:
            _write_renamed(checkpoint, out, names)
        else:
            _write_for_toolkit(checkpoint, out, toolkit)
        return
    if half or names is not None:
        raise UsageError(
            f"--half and --names are for perpixel checkpoints: convert {source} to one first"
        )
    _require_other_file(out, source)
    spec = None if recipe is None else perpixel.recipe(recipe)
    backbone_weights = None
    if backbone is not None:
        if spec is None:
            raise UsageError("--backbone needs the --recipe that the head was trained with")
        backbone_weights = zoo.backbone_file(backbone, spec.model)
    imported = import_checkpoint(
        source,
        toolkit=toolkit,
        recipe=spec,
        backbone=backbone_weights,
        output_stride=output_stride,
        align_corners=align_corners,
        threshold=threshold,
        variant=variant,
        dataset=dataset,
        trust=trust,
    )
    write_checkpoint(out, imported.checkpoint)
    _print(imported, out, detected=toolkit == "auto", has_recipe=recipe is not None)


def _print(imported: "ImportResult", out: Path, *, detected: bool, has_recipe: bool) -> None:
    from perpixel.conversion.detect import title

    finding, model = imported.finding, imported.finding.model
    toolkit = finding.toolkit.name
    classes = plural(finding.num_classes, "class")
    typer.echo(f"{title(model)} with {classes}, in {toolkit}'s names: {out}")
    if detected and toolkit == "pytorch-auto-drive":
        typer.echo("These are torchvision's names too: for its files give --toolkit torchvision.")
    if not has_recipe and toolkit == "caffe":
        mean = ", ".join(f"{value:.2f}" for value in imported.checkpoint.recipe.input.mean)
        typer.echo(
            f"Assumed, as weights do not show it: a mean of {mean} (blue, green, red). --recipe, "
            f"or --dataset of another of the caffe-fcn recipes, takes theirs."
        )
    elif not has_recipe:
        typer.echo(
            f"Assumed, as weights do not show it: output stride {model.backbone.output_stride}, "
            f"align_corners {str(model.align_corners).lower()}. Change it with --output-stride, "
            f"--align-corners or --recipe."
        )
    typer.echo(imported.note)


def _write_for_toolkit(checkpoint: "Checkpoint", out: Path, toolkit: str) -> None:
    import numpy as np
    import torch

    from perpixel.checkpoints.format import model_from_checkpoint
    from perpixel.conversion import to_state_dict
    from perpixel.conversion.caffe import scale_layers
    from perpixel.conversion.caffemodel import serialize_caffemodel
    from perpixel.io.atomic import atomic_write

    model = model_from_checkpoint(checkpoint)
    state = to_state_dict(model, toolkit=toolkit)
    if toolkit == "caffe" and out.suffix == ".caffemodel":
        blobs = {name: tensor.numpy() for name, tensor in state.items()}
        for name, (channels, scale) in scale_layers(model.spec).items():
            blobs[name] = np.full(channels, scale, np.float32)
        atomic_write(out, serialize_caffemodel(checkpoint.recipe.name, blobs))
        typer.echo(f"{checkpoint.recipe.name} in caffe's layout: {out}")
        return
    content: object = state
    if toolkit == "mmseg":
        names = list(checkpoint.class_names)
        palette = [list(color) for color in checkpoint.palette]
        meta = {
            "CLASSES": names,  # 0.x
            "PALETTE": palette,
            "dataset_meta": {"classes": names, "palette": palette},  # 1.x
        }
        content = {"meta": meta, "state_dict": state}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    atomic_write(out, buffer.getvalue())
    typer.echo(f"{checkpoint.recipe.name} in {toolkit}'s layout: {out}")
    if toolkit == "caffe" and scale_layers(model.spec):
        typer.echo("pytorch-fcn's FCN8sAtOnce takes it; a .caffemodel would hold its scales, too.")


def _write_half(checkpoint: "Checkpoint", out: Path) -> None:
    """Writes matrices and kernels in float16; norms and biases, which are small, unchanged."""
    from perpixel.checkpoints.format import write_checkpoint

    weights = {
        name: tensor.half() if tensor.is_floating_point() and tensor.dim() > 1 else tensor
        for name, tensor in checkpoint.weights.items()
    }
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise PerpixelError(f"{checkpoint.origin}: {name} holds numbers beyond float16's 65504")
    write_checkpoint(out, replace(checkpoint, weights=weights))
    typer.echo(f"{checkpoint.recipe.name}, in float16: {out}")


def _write_renamed(checkpoint: "Checkpoint", out: Path, names: str) -> None:
    """Writes it with other class names; raises UsageError unless there is one for each class."""
    from perpixel.checkpoints.format import write_checkpoint
    from perpixel.data.class_names import parse_names

    new, old = parse_names(names), checkpoint.class_names
    if len(new.in_order) != len(old) or len(set(new.in_order)) < len(old):
        raise UsageError(
            f"{new.origin} has {len(set(new.in_order))} different names, and the model {len(old)} "
            f"classes: {', '.join(old)}"
        )
    write_checkpoint(out, replace(checkpoint, class_names=new.in_order))
    typer.echo(f"{checkpoint.recipe.name} with new class names: {out}")


def _require_other_file(out: Path, source: Path | None) -> None:
    if source is not None and out.exists() and source.exists() and out.samefile(source):
        raise UsageError(f"{out} is the file to convert: name another file to write")
