"""Training's switches, one at a time: seconds and peak memory of a step of FCN R-50-D8.

Every switch takes its turn in every round, in a process of its own (two images of 512x512, VOC's
21 classes); the first step, which compiles, is told apart. `--only` picks some by name.
"""

import argparse
from collections.abc import Sequence
from statistics import median

import torch
from measure import alternating, apart, peak_memory, record, write_result

from perpixel.acceleration import winograd
from perpixel.models.build import build
from perpixel.recipes import overrides, recipe
from perpixel.runtime.device import resolve_device, to_device
from perpixel.runtime.dtype import cudnn_mode, resolve_dtype
from perpixel.runtime.heap import keep_freed
from perpixel.training.step import make_train_state, train_step

USUAL = "as it is"
SWITCHES = {
    USUAL: ((), {}),
    "train.precision=float32": (("train.precision=float32",), {}),
    "train.compile=default": (("train.compile=default",), {}),
    "train.activation_checkpointing=norms": (("train.activation_checkpointing=norms",), {}),
    "train.activation_checkpointing=stages": (("train.activation_checkpointing=stages",), {}),
    "THP_MEM_ALLOC_ENABLE=1": ((), {"THP_MEM_ALLOC_ENABLE": "1"}),
    "freed memory given back": ((), {"GLIBC_TUNABLES": "glibc.malloc.check=0"}),
    "3x3 without Winograd": (("3x3 without Winograd",), {}),
}
DEVICE = resolve_device("auto")
STEPS = 4


def steps(changes: Sequence[str]) -> dict[str, float]:
    """Seconds of the first step, the median of the others, and peak bytes."""
    keep_freed()
    if "3x3 without Winograd" in changes:
        winograd.pays = lambda *_, **__: False
    changes = [change for change in changes if "=" in change]
    chosen = recipe("mmseg/fcn_r50-d8_512x512_20k_voc12aug")
    chosen = overrides.override(chosen, ["train.precision=auto", *changes])
    dtype = resolve_dtype(chosen.train.precision, DEVICE)
    torch.manual_seed(0)
    model = build(chosen.model, num_classes=21)
    state = make_train_state(model, chosen, device=DEVICE, dtype=dtype)
    images = torch.randint(0, 256, (2, 512, 512, 3), dtype=torch.uint8)
    labels = torch.randint(0, 21, (2, 512, 512), dtype=torch.uint8)

    def step() -> None:
        train_step(state, images, labels, chosen, step=0)

    with cudnn_mode(deterministic=False):  # as training has it
        first_step, *others = alternating({"step": step}, rounds=STEPS, warm_up=0)["step"]
    return {"first": first_step, "step": median(others), "peak": peak_memory(DEVICE)}


def sgd() -> dict[str, list[float]]:
    """Seconds of SGD's step over the model's weights, in torch's three ways."""
    kinds = {
        "one by one": {"foreach": False},
        "foreach": {"foreach": True},
        "fused": {"fused": True},
    }
    ways = {}
    for kind, choice in kinds.items():
        model = to_device(
            build(recipe("mmseg/fcn_r50-d8_512x512_20k_voc12aug").model, num_classes=21), DEVICE
        )
        weights = list(model.parameters())
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        ways[kind] = torch.optim.SGD(
            weights, lr=0.01, momentum=0.9, weight_decay=5e-4, **choice
        ).step
    return alternating(ways, rounds=9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(SWITCHES))
    chosen = parser.parse_args()
    names = [USUAL, *(name for name in chosen.only if name != USUAL)]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(chosen.rounds):
        for name in names:
            changes, environment = SWITCHES[name]
            found[name].append(apart(steps, changes, **environment))
    results = []
    for title, key, unit in (
        ("a step", "step", "seconds"),
        ("the first step", "first", "seconds"),
        ("peak memory", "peak", "bytes"),
    ):
        values = {name: [run[key] for run in runs] for name, runs in found.items()}
        results.append(record(title, unit, values, against=USUAL))
    results.append(record("SGD", "seconds", sgd(), against="one by one"))
    print(write_result("switches", {"measured": results}, device=DEVICE))


if __name__ == "__main__":
    main()
