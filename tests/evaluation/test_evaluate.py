import numpy as np

import perpixel
from perpixel.data.augment import resize
from perpixel.data.scenes import Scenes
from perpixel.evaluation.confusion import confusion
from perpixel.evaluation.evaluate import evaluate
from perpixel.inference.class_maps import class_maps
from perpixel.inference.engine import Engine

RECIPE = perpixel.override(perpixel.recipe("scenes/fcn_r18-d8"), ["model.head.width=8"])
SET = Scenes("val", count=2, size=(48, 64))


def test_a_resized_data_set_is_scored_on_resized_labels():
    network = perpixel.build(RECIPE, classes=len(SET.classes)).eval()
    small = perpixel.override(RECIPE, ["data.resize=24x40"])
    found = evaluate(Engine(network, small), SET)
    expected = np.zeros((len(SET.classes),) * 2, np.int64)
    for index in range(2):
        image, label = resize(SET.image(index), SET.label(index), (24, 40))
        (prediction,) = class_maps(Engine(network, RECIPE), [image])
        expected += confusion(label, prediction, classes=len(SET.classes))
    assert (found.confusion == expected).all()
    assert found.confusion.sum() <= 2 * 24 * 40


def test_a_network_is_scored_as_it_predicts_whatever_its_mode():
    recipe = perpixel.override(RECIPE, ["model.head.dropout=0.9"])
    engine = Engine(perpixel.build(recipe, classes=len(SET.classes)).train(), recipe)
    first, second = (evaluate(engine, SET) for _ in range(2))
    assert (first.confusion == second.confusion).all()
