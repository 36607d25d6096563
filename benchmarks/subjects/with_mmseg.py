"""mmsegmentation 1.2.2's side of the benchmarks, through its own configs, models and transforms.

mmcv-lite has no compiled operators and neither model uses any: `mmcv.ops` is a stand-in whose
every attribute is an empty class.
"""

import importlib.util
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from subjects.plain import Run, precision


class _StandIn(types.ModuleType):
    __path__ = ()

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Finder:
    """Finds `mmcv.ops` and whatever is said to be in it."""

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        if name == "mmcv.ops" or name.startswith("mmcv.ops."):
            return importlib.util.spec_from_loader(name, self)
        return None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


sys.meta_path.insert(0, _Finder())

import mmseg  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.dataset import Compose  # noqa: E402
from mmengine.model.utils import revert_sync_batchnorm  # noqa: E402
from mmengine.optim import build_optim_wrapper  # noqa: E402
from mmengine.structures import PixelData  # noqa: E402
from mmseg.evaluation.metrics import IoUMetric  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402
from mmseg.utils import register_all_modules  # noqa: E402

register_all_modules()
CONFIGS = Path(mmseg.__file__).parent / ".mim" / "configs"


def training_step(case: dict[str, Any]) -> Run:
    config, model = _model(case)
    settings = dict(config.optim_wrapper)
    if case["device"] != "cpu":  # its own mixed precision, which it has on CUDA alone
        settings |= {"type": "AmpOptimWrapper", "loss_scale": "dynamic"}
        torch.backends.cudnn.benchmark = True
    optimizer = build_optim_wrapper(model.train(), settings)
    data = _data(case)
    return lambda: model.train_step(data, optimizer)


def forward(case: dict[str, Any]) -> Run:
    _, model = _model(case)
    model.eval()
    fed = model.data_preprocessor(_data(case), False)["inputs"].float()

    def run() -> None:
        with torch.inference_mode(), precision(case):
            model._forward(fed)

    return run


def prediction(case: dict[str, Any]) -> Run:
    _, model = _model(case)
    model.eval()
    data = _data(case)
    data["data_samples"] = None
    height, width = case["size"]
    shapes = {"ori_shape": (height, width), "img_shape": (height, width), "padding_size": [0] * 4}

    def run() -> None:
        with torch.inference_mode(), precision(case):
            fed = model.data_preprocessor(data, False)["inputs"]
            logits = model.encode_decode(fed, [shapes | {"pad_shape": (height, width)}])
            model.postprocess_result(logits)[0].pred_sem_seg.data.cpu()

    return run


def images(case: dict[str, Any]) -> Run:
    config = Config.fromfile(CONFIGS / case["config"])
    transforms = Compose(config.train_dataloader.dataset.get("pipeline") or config.train_pipeline)
    root = Path(case["root"])
    images = sorted(root.glob(case["images"]))
    masks = sorted(root.glob(case["masks"]))
    assert len(images) == len(masks) > 0
    order = np.random.default_rng(0).permutation(len(images))
    taken = 0

    def run() -> None:
        nonlocal taken
        for _ in range(case["count"]):
            index = order[taken % len(order)]
            taken += 1
            transforms(
                {
                    "img_path": str(images[index]),
                    "seg_map_path": str(masks[index]),
                    "reduce_zero_label": False,
                    "seg_fields": [],
                    "label_map": None,
                }
            )

    return run


def metric(case: dict[str, Any]) -> Run:
    random, classes = np.random.default_rng(0), case["classes"]
    truth = random.integers(0, classes, case["size"], np.uint8)
    said = np.where(random.random(case["size"]) < 0.7, truth, random.integers(0, classes))
    truth[:50] = 255
    label = torch.from_numpy(truth.astype(np.int64))
    prediction = torch.from_numpy(said.astype(np.int64))
    return lambda: IoUMetric.intersect_and_union(prediction, label, classes, 255)


def _model(case: dict[str, Any]) -> tuple[Config, Any]:
    config = Config.fromfile(CONFIGS / case["config"])
    config.model.pretrained = None
    model = revert_sync_batchnorm(MODELS.build(config.model))
    return config, model.to(case["device"])


def _data(case: dict[str, Any]) -> dict[str, Any]:
    random = np.random.default_rng(0)
    batch, size = case["batch"], tuple(case["size"])
    inputs = torch.from_numpy(random.integers(0, 256, (batch, 3, *size), np.uint8))
    truth = torch.from_numpy(random.integers(0, case["classes"], (batch, 1, *size)))
    samples = []
    for one in truth:
        sample = SegDataSample(metainfo={"img_shape": size, "ori_shape": size})
        sample.gt_sem_seg = PixelData(data=one)
        samples.append(sample)
    return {"inputs": list(inputs), "data_samples": samples}
