"""Training step, forward pass, mask and peak memory, beside other toolkits.

Every toolkit runs in a process of its own, in turn, on the same shapes. perpixel runs in bfloat16
and in float32, of which `train.precision=auto` takes the faster (leave bfloat16 out on a CPU
without instructions for it); the others in float32 on a CPU, where they have no mixed precision,
and with float16 on CUDA. Peak memory is that of a process that does nothing but two training steps.
On a GPU a step's operations, forward and backward, are told as a share of what a large bfloat16
product reaches (forward.py tells a CPU's share). The file holds what was measured last: run all
measures for a whole one.
"""

import argparse
from statistics import median
from typing import Any

import torch
from measure import record, write_result
from peers import take_turns, worker
from torch.utils.flop_counter import FlopCounterMode

import perpixel

_FPN = ("sssegmentation/semanticfpn_resnet50_ade20k", ["model.head.fpn_norm=false"])

NETWORKS: dict[str, dict[str, Any]] = {
    "FCN R-50-D8, VOC, 512x512": {
        "recipe": "mmseg/fcn_r50-d8_512x512_20k_voc12aug",
        "config": "fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py",
        "classes": 21, "size": (512, 512), "batch": 2, "also": "torchvision",
    },
    "Semantic FPN R-50, ADE20K, 512x512": {
        "recipe": _FPN[0], "settings": [*_FPN[1], "loss.avg_non_ignore=false"],
        "config": "sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py",
        "classes": 150, "size": (512, 512), "batch": 2, "also": "smp",
    },
}  # fmt: skip
"""What a CPU can do in minutes; `also` names a third toolkit with such a model."""

ON_CUDA: dict[str, dict[str, Any]] = {
    **{
        f"FCN {depth}-D8, {data}, {size[0]}x{size[1]}": {
            "recipe": f"mmseg/fcn_{depth.lower().replace('-', '')}-d8_{recipe}",
            "config": f"fcn/fcn_{depth.lower().replace('-', '')}-d8_{config}.py",
            "classes": classes, "size": size, "batch": batch, "also": None,
        }
        for depth in ("R-50", "R-101")
        for data, recipe, config, classes, size, batch in (
            ("VOC", "512x512_20k_voc12aug", "4xb4-20k_voc12aug-512x512", 21, (512, 512), 4),
            ("ADE20K", "512x512_80k_ade20k", "4xb4-80k_ade20k-512x512", 150, (512, 512), 4),
            ("Cityscapes", "512x1024_40k_cityscapes", "4xb2-40k_cityscapes-512x1024", 19,
             (512, 1024), 2),
        )
    },
    "Semantic FPN R-50, ADE20K, 512x512": {
        **NETWORKS["Semantic FPN R-50, ADE20K, 512x512"], "batch": 4,
    },
    "FCN R-50-D8, Cityscapes, 1024x2048": {
        "recipe": "mmseg/fcn_r50-d8_512x1024_40k_cityscapes",
        "config": "fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py",
        "classes": 19, "size": (1024, 2048), "batch": 1, "also": None,
    },
}  # fmt: skip
"""The shapes of the published trainings, and Cityscapes' full images."""

MEASURES = {
    "step": "training_step",
    "forward": "forward",
    "mask": "prediction",
    "memory": "training_step",
}


def toolkits(
    model: dict[str, Any], what: str, *, device: str, precisions: list[str], compiled: list[str]
) -> dict[str, tuple[str, Any]]:
    """(subject, case) by the title of every toolkit that can do `what`, ours in `precisions`, and
    for a training step with torch.compile in the modes of `compiled`."""
    settings = model["settings"]
    batch = model["batch"] if what == "training_step" else 1
    case = {**model, "device": device, "batch": batch}
    ways = {precision: [f"train.precision={precision}"] for precision in precisions}
    if what == "training_step":
        for mode in compiled:
            ways[f"compile={mode}"] = ["train.precision=bfloat16", f"train.compile={mode}"]
    found = {
        "mmsegmentation": ("mmseg", case),
        **{
            f"perpixel, {way}": ("perpixel", {**case, "settings": [*settings, *own]})
            for way, own in ways.items()
        },
    }
    if model["also"] and what != "prediction":
        found[model["also"]] = (model["also"], case)
    return found


def peak(subject: str, case: dict[str, Any]) -> float:
    with worker(subject) as ask:
        ask("make", what="training_step", case=case)
        ask("run")
        ask("run")
        return ask("memory")


def product_rate(device: str) -> float:
    """Operations a second of the product of two square bfloat16 matrices."""
    side = 8192
    case = {"device": device, "side": side}
    seconds = take_turns("product", {"perpixel": ("perpixel", case)}, rounds=9)["perpixel"]
    return 2 * side**3 / median(seconds)


def operations(model: dict[str, Any]) -> int:
    """Of a training step, forward and backward, by torch's count; nothing is computed."""
    recipe = perpixel.override(perpixel.recipe(model["recipe"]), model["settings"])
    made = perpixel.build(recipe, num_classes=model["classes"]).to("meta")
    images = torch.empty(model["batch"], 3, *model["size"], device="meta")
    with FlopCounterMode(display=False) as counter:
        output = made(images, return_aux=True)
        sum(logits.sum() for logits in output if logits is not None).backward()
    return counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="models whose name holds this text")
    both = ["bfloat16", "float32"]
    parser.add_argument("--precisions", nargs="+", choices=both, default=both, help="perpixel's")
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=list(MEASURES))
    modes = ["default", "reduce-overhead"]
    parser.add_argument("--compile", nargs="+", choices=modes, default=[], help="steps, too")
    parser.add_argument("--set", nargs="+", default=[], help="settings of perpixel's recipes")
    given = parser.parse_args()
    found = []
    on_gpu = given.device != "cpu"
    rate = product_rate(given.device) if on_gpu and "step" in given.measures else None
    models = ON_CUDA if on_gpu else NETWORKS
    for name in (name for name in models if given.only in name):
        model = {**models[name], "settings": [*models[name].get("settings", []), *given.set]}
        for measure in given.measures:
            what = MEASURES[measure]
            cases = toolkits(
                model, what, device=given.device, precisions=given.precisions,
                compiled=given.compile,
            )  # fmt: skip
            batch = next(iter(cases.values()))[1]["batch"]
            title = f"{measure}: {name}, batch {batch}"
            if measure == "memory":
                values = {toolkit: [peak(*case)] for toolkit, case in cases.items()}
                found.append(record(title, "bytes", values))
            else:
                values = take_turns(what, cases, rounds=given.rounds)
                found.append(record(title, "seconds", values))
                if measure == "step" and rate is not None:
                    work = operations(model) / rate
                    shares = {
                        way: [work / one for one in several] for way, several in values.items()
                    }
                    found.append(record(f"{title}: share of matrix products", "share", shares))
    print(write_result("networks", {"measured": found}, device=given.device))


if __name__ == "__main__":
    main()
