import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from perpixel.errors import PerpixelError
from perpixel.losses import segmentation_loss
from perpixel.recipes.schema import IGNORE_INDEX, OHEM, Loss

VALID = Loss(avg_non_ignore=True)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("term", ["cross_entropy", "focal", "dice", "lovasz"])
def test_logits_are_enlarged_bilinearly(align_corners: bool, term: str):
    logits = torch.randn(1, 3, 2, 2)
    labels = torch.randint(0, 3, (1, 5, 5), dtype=torch.uint8)
    full = torch.nn.functional.interpolate(
        logits, size=(5, 5), mode="bilinear", align_corners=align_corners
    )
    spec = Loss(**{"cross_entropy": 0, term: 1})
    found = segmentation_loss(logits, labels, spec, align_corners=align_corners)
    assert found.item() == pytest.approx(plain_terms(full, labels, spec), rel=1e-5)


# --- Every term against its formula, pixel by pixel ----------------------------------------------

CLASS_WEIGHTS = (0.5, 2.0, 0.0, 1.25)
TERMS = {
    "valid": VALID,
    "all pixels": Loss(avg_non_ignore=False),
    "weights": Loss(class_weights=CLASS_WEIGHTS),
    "weights-all": Loss(class_weights=CLASS_WEIGHTS, avg_non_ignore=False),
    "focal": Loss(cross_entropy=0, focal=1),
    "focal-weights": Loss(cross_entropy=0.5, focal=2, focal_gamma=0.5, class_weights=CLASS_WEIGHTS),
    "ohem": Loss(ohem=OHEM(threshold=0.4, min_kept=2)),
    "ohem-least": Loss(ohem=OHEM(threshold=0.01, min_kept=9), avg_non_ignore=False),
    "ohem-top": Loss(ohem=OHEM(threshold=None, min_kept=9), class_weights=CLASS_WEIGHTS),
    "dice": Loss(cross_entropy=0, dice=1),
    "lovasz": Loss(cross_entropy=0, lovasz=1),
    "all": Loss(
        cross_entropy=0.3, focal=0.7, dice=0.9, lovasz=1.1, ohem=OHEM(threshold=0.5, min_kept=3)
    ),
}
PARTS = pytest.mark.parametrize("spec", TERMS.values(), ids=TERMS)


def plain_terms(logits: torch.Tensor, labels: torch.Tensor, spec: Loss) -> float:
    """The whole of `spec` with loops over pixels and sets of pixels, in float64."""
    scores = logits.detach().double().numpy()
    chances = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    pixels = [
        (int(labels[n, y, x]), chances[n, :, y, x])
        for n, y, x in np.ndindex(*labels.shape)
        if labels[n, y, x] != IGNORE_INDEX
    ]
    if not pixels:
        return 0.0
    terms = {
        "pixels": _plain_pixels(pixels, labels, spec),
        "dice": spec.dice * _plain_dice(pixels),
        "lovasz": spec.lovasz * _plain_lovasz(pixels),
    }
    return sum(terms.values())


def _plain_pixels(pixels: list, labels: torch.Tensor, spec: Loss) -> float:
    weight = spec.class_weights or (1.0,) * 100
    losses = []
    for label, chance in pixels:
        p = chance[label]
        part = -spec.cross_entropy * np.log(p)
        part += spec.focal * (1 - p) ** spec.focal_gamma * -np.log(p)
        losses.append(weight[label] * part)
    kept = losses
    if spec.ohem is not None:
        count = spec.ohem.min_kept * len(labels)
        if spec.ohem.threshold is None:
            kept = sorted(losses, reverse=True)[:count]
        else:
            ps = [chance[label] for label, chance in pixels]
            limit = max(sorted(ps)[min(count, len(ps) - 1)], spec.ohem.threshold)
            kept = [loss for loss, p in zip(losses, ps, strict=True) if p < limit]
    whole = sum(weight[label] for label, _ in pixels) if spec.avg_non_ignore else labels.numel()
    return sum(kept) / whole if whole else 0.0


def _plain_dice(pixels: list) -> float:
    scores = []
    for index in {label for label, _ in pixels}:
        both = sum(chance[index] for label, chance in pixels if label == index)
        areas = sum(chance[index] ** 2 + (label == index) for label, chance in pixels)
        scores.append(1 - 2 * both / areas)
    return sum(scores) / len(scores)


def _plain_lovasz(pixels: list) -> float:
    """The definition of a Lovasz extension: the sum of m_i (F({1..i}) - F({1..i-1})) for errors m
    from large to small; here F(wrong) = |wrong| / |truth or wrong|, the Jaccard loss."""
    losses = []
    for index in {label for label, _ in pixels}:
        truth = {i for i, (label, _) in enumerate(pixels) if label == index}
        errors = [abs((i in truth) - chance[index]) for i, (_, chance) in enumerate(pixels)]
        total, wrong, before = 0.0, set(), 0.0
        for i in sorted(range(len(pixels)), key=lambda i: -errors[i]):
            wrong.add(i)
            now = len(wrong) / len(truth | wrong)
            total += errors[i] * (now - before)
            before = now
        losses.append(total)
    return sum(losses) / len(losses)


def batch(classes: int = 4, size: tuple[int, int] = (5, 7)) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, float64, and labels of two images, their first rows void, the last class absent."""
    labels = torch.randint(0, max(classes - 1, 1), (2, *size), dtype=torch.uint8)
    labels[:, : size[0] // 2] = IGNORE_INDEX
    return 2 * torch.randn(2, classes, *size, dtype=torch.float64), labels


@PARTS
def test_every_term_equals_its_formula(spec: Loss):
    logits, labels = batch()
    expected = plain_terms(logits, labels, spec)
    found = segmentation_loss(logits, labels, spec)
    assert expected > 0
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(expected, rel=1e-10)
    in_float32 = segmentation_loss(logits.float(), labels, spec)
    assert in_float32.dtype == torch.float32
    assert in_float32.item() == pytest.approx(expected, rel=1e-4)


@PARTS
def test_gradients_are_those_of_finite_differences(spec: Loss):
    logits, labels = batch(size=(3, 4))
    small = logits[..., :2, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: segmentation_loss(x, labels, spec), small)
    segmentation_loss(small, labels, spec).backward()
    assert small.grad is not None
    assert small.grad.any()


@PARTS
def test_void_pixels_have_no_gradient(spec: Loss):
    logits, labels = batch()
    logits.requires_grad_()
    segmentation_loss(logits, labels, spec).backward()
    void = (labels == IGNORE_INDEX)[:, None].expand_as(logits)
    assert not logits.grad[void].any()


@PARTS
def test_nothing_but_void_is_a_loss_of_nothing(spec: Loss):
    logits = torch.randn(2, 4, 3, 3, requires_grad=True)
    loss = segmentation_loss(logits, torch.full((2, 6, 6), IGNORE_INDEX, dtype=torch.uint8), spec)
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


@PARTS
@pytest.mark.parametrize("certain", [-1e4, 1e4], ids=["wrong", "right"])
def test_extreme_logits_give_finite_gradients(spec: Loss, certain: float):
    _, labels = batch()
    truth = labels.long().where(labels != IGNORE_INDEX, 0)
    logits = certain * torch.nn.functional.one_hot(truth, 4).movedim(-1, 1).float()
    logits.requires_grad_()
    loss = segmentation_loss(logits, labels, spec)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert (loss.item() < 1e-6) == (certain > 0)


@PARTS
def test_one_class_and_one_pixel(spec: Loss):
    single = spec.model_copy(update={"class_weights": None})
    one_class, labels = batch(classes=1)
    assert segmentation_loss(one_class, labels, single).item() == pytest.approx(0, abs=1e-12)
    logits, pixel = torch.randn(1, 4, 1, 1).double(), torch.ones(1, 1, 1, dtype=torch.uint8)
    expected = plain_terms(logits, pixel, spec)
    assert segmentation_loss(logits, pixel, spec).item() == pytest.approx(expected, rel=1e-10)


def test_a_batch_of_weightless_classes_is_a_loss_of_nothing():
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    spec = Loss(class_weights=(0, 1))
    loss = segmentation_loss(logits, torch.zeros(1, 3, 3, dtype=torch.uint8), spec)
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_the_plain_loss_is_torchs_own():
    logits, labels = batch()
    weights = torch.tensor(CLASS_WEIGHTS).double()
    for spec, weight in ((Loss(), None), (Loss(class_weights=CLASS_WEIGHTS), weights)):
        expected = torch.nn.functional.cross_entropy(
            logits, labels.long(), weight=weight, ignore_index=IGNORE_INDEX
        )
        assert segmentation_loss(logits, labels, spec).item() == pytest.approx(expected.item())


@pytest.mark.parametrize(
    "others",
    [{}, {"class_weights": (1, 2, 0.5, 4)}, {"focal": 0.5}, {"ohem": OHEM(min_kept=3)}],
    ids=["alone", "weights", "focal", "ohem"],
)
def test_smoothed_labels_are_a_share_of_all_classes(others: dict):
    """Beside each other term, the smoothed loss is (1 - e) of the plain one and e of the mean."""
    logits, labels = batch()
    share = 0.3
    spec = Loss(label_smoothing=share, **others)
    scores = torch.nn.functional.log_softmax(logits.double(), dim=1)
    known = labels != IGNORE_INDEX
    label = labels.where(known, 0).long()
    plain = -scores.gather(1, label[:, None])[:, 0]
    smoothed = (1 - share) * plain - share * scores.mean(dim=1)
    pixels = smoothed + spec.focal * (1 - (-plain).exp()) ** spec.focal_gamma * plain
    weights = torch.tensor(spec.class_weights or (1, 1, 1, 1), dtype=torch.float64)[label] * known
    if spec.ohem is not None:
        chances = (-plain).exp()
        least = chances[known].sort().values[min(3 * len(labels), int(known.sum()) - 1)]
        pixels = pixels * (chances < least.clamp(min=spec.ohem.threshold))
    expected = (pixels * weights).sum() / weights.sum()
    assert segmentation_loss(logits, labels, spec).item() == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_too_few_class_weights_are_refused_with_both_numbers():
    logits, labels = batch()
    with pytest.raises(PerpixelError, match=r"class_weights has 2 numbers for 4 classes"):
        segmentation_loss(logits, labels, Loss(class_weights=(1, 1)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cross_entropy": 0}, "above 0"),
        ({"cross_entropy": 0, "dice": 1, "ohem": OHEM()}, "which are 0"),
        ({"cross_entropy": 0, "lovasz": 1, "class_weights": (1, 2)}, "which are 0"),
        ({"cross_entropy": 0, "focal": 1, "label_smoothing": 0.1}, "which is 0"),
        ({"class_weights": (1, -1)}, "greater than or equal to 0"),
    ],
)
def test_losses_that_mean_nothing_are_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Loss(**settings)


class Largest(TorchDispatchMode):
    """The number of values of the largest tensor that is made inside."""

    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.values = max(self.values, result.numel())
        return result


@pytest.mark.parametrize(
    "spec",
    [Loss(), Loss(class_weights=(1,) * 150), Loss(focal=1), Loss(ohem=OHEM(min_kept=100))],
    ids=["plain", "weights", "focal", "ohem"],
)
def test_the_enlarged_logits_are_never_held(monkeypatch, spec: Loss):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # whose number sets a band's height
    logits = torch.randn(2, 150, 48, 48).requires_grad_()
    labels = torch.randint(0, 150, (2, 384, 384), dtype=torch.uint8)
    with Largest() as largest:
        segmentation_loss(logits, labels, spec).backward()
    assert 0 < largest.values < 2 * 150 * 384 * 384 / 20
