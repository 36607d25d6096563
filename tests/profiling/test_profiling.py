"""Counts against published figures and PyTorch's own counter; time and memory on small models."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import perpixel
import perpixel.profiling.latency as latency_module
from perpixel.errors import PerpixelError, UsageError
from perpixel.models.build import build
from perpixel.profiling.flops import count
from perpixel.profiling.latency import inference_pass, latency
from perpixel.profiling.profile import profile

CPU = torch.device("cpu")
PUBLISHED = "pytorch-auto-drive/fcn_resnet101_cityscapes_256x512"
SMALL = perpixel.override(
    perpixel.recipe("camvid/fcn_r18-d8"), ["model.head.channels=16", "model.aux_head.channels=16"]
)


@pytest.mark.parametrize(
    ("size", "macs"),
    [
        ((256, 512), 108_211_509_248),
        ((512, 1024), 432_846_036_992),
        ((1024, 2048), 1_731_384_147_968),
    ],
)
def test_counts_are_pytorch_auto_drives(size, macs):
    recipe = perpixel.recipe(PUBLISHED)
    counted = count(recipe.model, num_classes=19, size=size)
    assert (counted.params, counted.params_auxiliary, counted.macs) == (51_948_115, 0, macs)
    (row,) = (row for row in recipe.published.profiles if row.size == size)
    assert round(2 * counted.macs / 1e9, 2) == row.gflops
    assert round(counted.params / 1e6, 2) == row.mparams


@pytest.mark.parametrize(
    ("name", "classes", "size", "convolutions"),
    [  # by a count of the toolkits' own modules, in 10^6
        ("mmseg/fcn_r18-d8_512x1024_80k_cityscapes", 19, (512, 1024), 110_863),
        ("mmseg/fcn_r101-d8_769x769_40k_cityscapes", 19, (769, 769), 631_950),
        ("sssegmentation/semanticfpn_resnet50_ade20k", 150, (512, 512), 45_273),
        (PUBLISHED, 19, (256, 512), 107_971),
    ],
)
def test_convolutions_alone(name, classes, size, convolutions):
    spec = perpixel.recipe(name).model
    if name.startswith("sssegmentation"):  # counted with 21 classes there
        classes = 21
    counted = count(spec, num_classes=classes, size=size)
    assert round(counted.macs_convolutions / 1e6) == convolutions
    with torch.device("meta"):
        model, images = build(spec, num_classes=classes).eval(), torch.empty(1, 3, *size)
    with FlopCounterMode(display=False) as counter:
        model(images)
    assert counter.get_total_flops() == 2 * counted.macs_convolutions


def test_layers_add_up_and_images_multiply():
    counts = count(SMALL.model, num_classes=11, size=(64, 96))
    assert sum(layer.params for layer in counts.layers) == counts.params
    first = counts.layers[0]
    assert (first.name, first.kind, first.output) == ("backbone.conv1", "Conv2d", (1, 64, 32, 48))
    assert first.macs == first.macs_convolutions == 64 * 32 * 48 * 3 * 7 * 7
    classifier = counts.layers[-1]
    assert classifier.macs - classifier.macs_convolutions == 11 * 8 * 12
    assert count(SMALL.model, num_classes=11, size=(64, 96), batch=3).macs == 3 * counts.macs
    params = sum(p.numel() for p in build(SMALL.model, num_classes=11).parameters())
    assert counts.params + counts.params_auxiliary == params


def test_frozen_norms_count_as_norms():
    frozen = perpixel.override(SMALL, ["model.backbone.frozen_bn=true"])
    counts = [count(recipe.model, num_classes=11, size=(64, 64)).macs for recipe in (SMALL, frozen)]
    assert counts[0] == counts[1]


def test_a_profile_has_every_figure(tmp_path):
    trace, size = tmp_path / "t.json", (64, 96)
    result = profile(SMALL, num_classes=11, size=size, device=CPU, seconds=0.05, trace=trace)
    assert result.latency is not None
    assert 0 < result.latency.p50 <= result.latency.p90
    assert len(result.latency.passes) == 3
    assert min(result.latency.passes) >= 1
    assert result.images_per_second == 1000 / result.latency.best
    weights = 4 * (result.count.params + result.count.params_auxiliary)
    assert result.inference is not None
    assert result.training is not None
    assert result.inference.bytes is not None
    assert result.training.bytes is not None
    assert result.inference.bytes > weights
    assert result.training.bytes > result.inference.bytes + weights  # gradients and momentum
    events = json.loads(trace.read_text())["traceEvents"]
    assert any("conv" in event["name"] for event in events)


def test_the_best_trial_is_its_mean_and_the_distribution_is_of_all(monkeypatch):
    trials = iter([[10.0, 20.0], [30.0, 30.0, 30.0], [10.0, 100.0]])
    monkeypatch.setattr(latency_module, "_trial", lambda run, device, count: next(trials))
    result = latency(lambda: None, CPU)
    assert result == latency_module.Latency(best=15, p50=30, p90=100, passes=(2, 3, 2))


def test_a_trial_ends_at_its_passes_or_its_time():
    assert latency(lambda: None, CPU, seconds=10).passes == (300, 300, 300)
    calls = []
    assert latency(lambda: calls.append(0), CPU, seconds=0).passes == (1, 1, 1)
    assert len(calls) == 5  # two of them to warm up


def test_upsampling_the_logits_is_timed():
    model = build(SMALL.model, num_classes=11).eval()
    images = torch.rand(2, 3, 40, 56)
    run = inference_pass(model, images, dtype=torch.float32)
    logits = run()
    assert logits.shape == (2, 11, 40, 56)
    small = model(images).logits
    expected = torch.nn.functional.interpolate(small, size=(40, 56), mode="bilinear")
    assert torch.equal(logits, expected)


def test_only_counting_runs_nothing(monkeypatch):
    monkeypatch.setattr("perpixel.profiling.profile.build", None)
    result = profile(SMALL, num_classes=11, size=(64, 64), device=CPU, seconds=0)
    assert (result.latency, result.inference, result.training) == (None, None, None)
    assert result.count.macs > 0


def test_failed_measurements_give_a_reason():
    shallow = perpixel.override(SMALL, ["model.head.concat_input=false"])
    result = profile(shallow, num_classes=3, size=(8, 8), device=CPU, seconds=0.01)
    assert result.training is not None
    assert result.training.bytes is None
    assert "more than 1 value per channel" in result.training.note
    with pytest.raises(UsageError, match="size 10000000000x10000000000 does not fit this model"):
        profile(SMALL, num_classes=3, size=(10**10, 10**10), device=CPU)


def test_too_little_memory_is_an_error_and_ends_the_measuring_process_alone():
    size = (1_000_000, 1_000_000)
    with pytest.raises(PerpixelError, match="1000000x1000000: too little memory for a batch of 2"):
        profile(SMALL, num_classes=3, size=size, batch=2, device=CPU)


def test_batch_norms_with_children_are_counted(monkeypatch):
    """timm's batch norms hold their dropout and ReLU."""
    plain = count(SMALL.model, num_classes=4, size=(64, 64))

    class NormAct(torch.nn.BatchNorm2d):
        def __init__(self, channels: int) -> None:
            super().__init__(channels)
            self.act = torch.nn.Identity()

    monkeypatch.setattr(torch.nn, "BatchNorm2d", NormAct)
    other = count(SMALL.model, num_classes=4, size=(64, 64))
    assert (other.macs, other.params) == (plain.macs, plain.params)
    assert sum(layer.params for layer in other.layers) == sum(x.params for x in plain.layers)
