import numpy as np
import pytest
import torch
from variants import predictor_of

import perpixel
from perpixel.data.augment import resize
from perpixel.data.datasets.synthetic import SyntheticStreets
from perpixel.evaluation.boundary import boundary_counts
from perpixel.evaluation.evaluate import evaluate
from perpixel.evaluation.metrics import confusion
from perpixel.inference.tta import predict_masks
from perpixel.recipes.schema import IGNORE_INDEX

RECIPE = perpixel.override(perpixel.recipe("scenes/fcn_r18-d8"), ["model.head.channels=8"])
SET = SyntheticStreets("val", count=2, size=(48, 64))


def test_a_resized_data_set_is_scored_on_resized_labels():
    model = perpixel.build(RECIPE, num_classes=len(SET.classes)).eval()
    small = perpixel.override(RECIPE, ["data.resize=24x40"])
    found = evaluate(predictor_of(model, small), SET)
    expected = np.zeros((len(SET.classes),) * 2, np.int64)
    for index in range(2):
        image, label = resize(SET.image(index), SET.label(index), (24, 40))
        (prediction,) = predict_masks(predictor_of(model, RECIPE), [image])
        expected += confusion(label, prediction, num_classes=len(SET.classes))
    assert (found.confusion == expected).all()
    assert found.confusion.sum() <= 2 * 24 * 40


def test_a_network_is_scored_as_it_predicts_whatever_its_mode():
    recipe = perpixel.override(RECIPE, ["model.head.dropout=0.9"])
    predictor = predictor_of(perpixel.build(recipe, num_classes=len(SET.classes)), recipe)
    predictor.model.train()
    first, second = (evaluate(predictor, SET) for _ in range(2))
    assert (first.confusion == second.confusion).all()


def test_every_image_of_a_batch_has_scores_of_its_own():
    """And the split's are those of all pixels together."""
    images = SyntheticStreets("val", count=3, size=(48, 64))
    model = perpixel.build(RECIPE, num_classes=len(SET.classes)).eval()
    torch.nn.init.normal_(model.head.classifier.weight)
    predictor = predictor_of(model, RECIPE)
    found = evaluate(predictor, images, batch=2, boundary=True)
    classes = len(SET.classes)
    totals, bands = np.zeros((2, classes)), np.zeros((2, classes))
    for index, scored in enumerate(found.per_image):
        label = images.label(index)
        (prediction,) = predict_masks(predictor, [images.image(index)])
        assert len(np.unique(prediction)) > 1  # or one class's scores would be all there is
        known = label != IGNORE_INDEX
        truth, guess = (
            known & (mask == np.arange(classes)[:, None, None]) for mask in (label, prediction)
        )
        both, either = (truth & guess).sum((1, 2)), (truth | guess).sum((1, 2))
        assert scored.name == images.sample_id(index)
        assert scored.pixel_accuracy == pytest.approx(100 * both.sum() / known.sum())
        assert list(scored.iou.values()) == pytest.approx(_percent(both, either))
        totals += both, either
        bands += boundary_counts(label, prediction, num_classes=classes)
    assert list(found.iou.values()) == pytest.approx(_percent(*totals))
    assert list(found.boundary_iou.values()) == pytest.approx(_percent(*bands))


def _percent(part: np.ndarray, whole: np.ndarray) -> list[float | None]:
    return [100 * p / w if w else None for p, w in zip(part, whole, strict=True)]
