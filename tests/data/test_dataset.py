"""LabelMapping against a pixel-by-pixel reference, its errors, and pairs of files."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from perpixel.data.dataset import Classes, LabelMapping, PairDataset, read_pair
from perpixel.data.paths import require_folder
from perpixel.errors import PerpixelError, plural
from perpixel.io.images import write_image, write_mask
from perpixel.recipes.schema import IGNORE_INDEX

INDICES = st.sampled_from([*range(5), IGNORE_INDEX])
BYTES = st.integers(0, 255)
SHAPES = array_shapes(min_dims=2, max_dims=2, max_side=6)
FEW_IDS = st.sampled_from([0, 1, 2, 7, 128, 254, 255])
MANY_IDS = st.sampled_from([0, 1, 255, 256, 257, 7000, 65535])
COLORS = st.tuples(*[st.sampled_from([0, 1, 128, 255])] * 3)


def _reference(mask, table):
    """The label and the values that `table` lacks, from a dictionary and a loop."""
    label = np.zeros(mask.shape[:2], int)
    unknown = []
    for row, column in np.ndindex(*mask.shape[:2]):
        value = mask[row, column]
        raw = int(value) if mask.ndim == 2 else tuple(int(part) for part in value)
        if raw in table:
            label[row, column] = table[raw]
        else:
            unknown.append(raw)
    return label, unknown


def _check(mask, table, translate):
    expected, unknown = _reference(mask, table)
    if unknown:
        with pytest.raises(PerpixelError) as error:
            translate(mask)
        for value in sorted(set(unknown))[:8]:
            assert str(value) in str(error.value)
        assert f"at {plural(len(unknown), 'pixel')} is" in str(error.value)
    else:
        label = translate(mask)
        assert label.dtype == np.uint8
        assert np.array_equal(label, expected)


@settings(deadline=None)
@given(st.data(), st.sampled_from([(np.uint8, FEW_IDS), (np.uint16, MANY_IDS)]))
def test_ids_are_mapped_as_by_the_reference(data, kind):
    dtype, ids = kind
    table = data.draw(st.dictionaries(ids, INDICES, min_size=1))
    drawn = st.sampled_from(sorted(table)) if data.draw(st.booleans()) else ids
    mask = data.draw(arrays(dtype, SHAPES, elements=drawn))
    _check(mask, table, lambda mask: LabelMapping(ids=table).translate(mask, origin="a.png"))


@settings(deadline=None)
@given(st.data())
def test_colors_are_mapped_as_by_the_reference(data):
    table = data.draw(st.dictionaries(COLORS, INDICES, min_size=1))
    drawn = st.sampled_from(sorted(table)) if data.draw(st.booleans()) else COLORS
    height, width = data.draw(SHAPES)
    pixels = data.draw(st.lists(drawn, min_size=height * width, max_size=height * width))
    mask = np.array(pixels, np.uint8).reshape(height, width, 3)
    _check(mask, table, lambda mask: LabelMapping(colors=table).translate(mask, origin="a.png"))


@given(st.tuples(BYTES, BYTES, BYTES), st.tuples(BYTES, BYTES, BYTES))
def test_no_two_colors_are_confused(color, other):
    table = LabelMapping(colors={color: 3})
    mask = np.array([[other]], np.uint8)
    if color == other:
        assert table.translate(mask, origin="a.png").tolist() == [[3]]
    else:
        with pytest.raises(PerpixelError):
            table.translate(mask, origin="a.png")


def test_an_unknown_value_is_named_with_the_file_and_the_number_of_classes():
    table = LabelMapping(ids={0: 0, 1: 1, 2: 2, 3: 2, 255: IGNORE_INDEX})
    mask = np.array([[0, 1, 77], [77, 255, 3]], np.uint8)
    with pytest.raises(PerpixelError) as error:
        table.translate(mask, origin="masks/a.png")
    assert str(error.value).startswith("masks/a.png: label value 77 at 2 pixels is not in")
    assert "3 classes; ids 0, 1, 2, 3, 255" in str(error.value)


def test_an_unknown_color_is_named_with_the_file_and_the_number_of_classes():
    table = LabelMapping(colors={(0, 0, 0): 0, (128, 64, 0): 1, (255, 255, 255): IGNORE_INDEX})
    with pytest.raises(PerpixelError) as error:
        table.translate(np.full((2, 3, 3), (128, 64, 1), np.uint8), origin="masks/a.png")
    assert str(error.value).startswith("masks/a.png: label color (128, 64, 1) at 6 pixels")
    assert "2 classes; 3 colors" in str(error.value)


def test_of_many_unknown_values_only_some_are_listed():
    with pytest.raises(PerpixelError) as error:
        LabelMapping(ids={0: 0}).translate(np.arange(256, dtype=np.uint8)[None], origin="a.png")
    assert "1, 2, 3, 4, 5, 6, 7, 8, ... at 255 pixels" in str(error.value)


def test_a_mask_of_the_other_kind_is_refused():
    with pytest.raises(PerpixelError, match=r"^a\.png: holds ids, but .* colors"):
        LabelMapping(colors={(0, 0, 0): 0}).translate(np.zeros((2, 2), np.uint8), origin="a.png")
    with pytest.raises(PerpixelError, match=r"^a\.png: holds RGB colors, but .* ids"):
        LabelMapping(ids={0: 0}).translate(np.zeros((2, 2, 3), np.uint8), origin="a.png")


@pytest.mark.parametrize(("names", "colors"), [(0, 0), (2, 1), (255, 255)])
def test_there_is_a_color_for_every_class_and_room_for_ignore(names, colors):
    with pytest.raises(ValueError, match=f"{names} names, {colors} colors"):
        Classes(("a",) * names, ((0, 0, 0),) * colors)


# --- Pairs of files ------------------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path):
    """Two pairs; the second's mask has another size."""
    classes = Classes(("sky", "road"), ((1, 2, 3), (4, 5, 6)))
    for name, size in (("a", (4, 6)), ("b", (6, 4))):
        write_image(tmp_path / f"images/{name}.png", np.full((4, 6, 3), (9, 8, 7), np.uint8))
        write_mask(tmp_path / f"masks/{name}.png", np.ones(size, np.uint8), classes.palette)
    files = (("images/a.png", "masks/a.png"), ("images/b.png", "masks/b.png"))
    return PairDataset(tmp_path, files, classes, LabelMapping(ids={0: 1, 1: 0, 255: IGNORE_INDEX}))


def test_a_pair_is_an_image_and_its_mask(pairs):
    assert len(pairs) == 2
    assert pairs.sample_id(0) == "images/a.png"
    image, label = read_pair(pairs, 0)
    assert image.shape == (4, 6, 3)
    assert image[0, 0].tolist() == [9, 8, 7]
    assert label.shape == (4, 6)
    assert not label.any()


def test_a_mask_of_another_size_is_refused_with_both_sizes(pairs):
    with pytest.raises(PerpixelError, match=r"images/b\.png: the image is 4x6 .* mask 6x4"):
        read_pair(pairs, 1)


def test_sixteen_bit_masks_are_translated(pairs):
    path = pairs.root / "masks/a.png"
    Image.fromarray(np.full((4, 6), 7000, np.uint16)).save(path)
    table = LabelMapping(ids={7000: 1})
    assert (
        PairDataset(pairs.root, pairs.files, pairs.classes, table).label(0).tolist()
        == [[1] * 6] * 4
    )
    with pytest.raises(PerpixelError, match=f"{path}: label value 7000 at 24 pixels"):
        pairs.label(0)


def test_a_missing_root_says_what_it_should_hold(tmp_path):
    require_folder(tmp_path, dataset="town", holds="train/")
    with pytest.raises(PerpixelError, match=r"none: no such folder\. .* town, which holds train/"):
        require_folder(tmp_path / "none", dataset="town", holds="train/")
    (tmp_path / "file").touch()
    with pytest.raises(
        PerpixelError, match=r"file: is a file, not a folder\. Name the root of town"
    ):
        require_folder(tmp_path / "file", dataset="town", holds="train/")
