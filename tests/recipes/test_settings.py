import pytest

import perpixel
from perpixel.errors import PerpixelError, UsageError
from perpixel.recipes import settings

RECIPE = perpixel.recipe("camvid/fcn_r18-d8")


@pytest.mark.parametrize("name", perpixel.recipes())
def test_every_recipe_survives_json(name: str):
    recipe = perpixel.recipe(name)
    assert recipe.name == name
    assert settings.load(settings.dump(recipe), origin="test") == recipe


def test_settings_reach_every_depth():
    changed = perpixel.override(
        RECIPE,
        [
            "train.steps=7",
            "train.crop=96x128",
            "optimizer.lr=0.5",
            "model.backbone.depth=50",
            "model.backbone.stem=deep",
            "model.backbone.stem=7x7",
            "model.auxiliary=none",
            "augment.scale=[0.5, 1]",
            "evaluate.every=null",
            "train.precision=float32",
            "data.eval_split=2",
        ],
    )
    assert changed.train.steps == 7
    assert changed.train.crop == (96, 128)
    assert changed.optimizer.lr == 0.5
    assert changed.model.backbone.depth == 50
    assert changed.model.backbone.stem == "7x7"
    assert changed.model.auxiliary is None
    assert changed.augment.scale == (0.5, 1.0)
    assert changed.evaluate.every is None
    assert changed.train.precision == "float32"
    assert changed.data.eval_split == "2"
    assert RECIPE.train.steps != 7


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("train.stepz=1", "Did you mean train.steps"),
        ("trian.steps=1", "Did you mean train.steps"),
        ("train.steps", "path=value"),
        ("train.steps=many", "train.steps='many'"),
        ("train.steps=0", "train.steps=0"),
        ("model.backbone.depth=19", "^model.backbone.depth=19: .*18, 34, 50 or 101"),
        ("model.head.neck_norm=true", "unknown setting"),
        ("train.steps.more=1", "has no parts"),
        ("augment.scale=[2, 1]", "from small to large"),
        ("inference.stride=8x8", "needs a crop"),
        ("model.head.width=0", "^model.head.width=0"),
        ("model.backbone.kind=vit", "^model.backbone.kind='vit': there are 'resnet', 'timm'$"),
        ("model.backbone=timm", "^model.backbone='timm': Set model.backbone.kind, to one of"),
        ("train.crop=64", "train.crop=64: .*512x1024"),
        ("input.mean=[1]", "^input.mean=[1]: There are too few numbers$"),
        ("inference.scales=[1,1000]", "inference.scales.1=1000: "),
        ("input.std=[1,0,1]", "input.std.1=0: .*greater than 0"),
        (
            "loss.cross_entropy=0",
            "^loss: one of cross_entropy, focal, dice and lovasz must be above 0$",
        ),
        ("loss.class_weights=[0,0]", "one of class_weights must be above 0"),
    ],
)
def test_a_wrong_setting_is_named(setting: str, says: str):
    with pytest.raises(UsageError, match=says.replace("[", r"\[")):
        perpixel.override(RECIPE, [setting])


def test_pictures_of_ones_own_have_no_other_crop_at_the_end():
    for name in perpixel.recipes("folder/*"):
        recipe = perpixel.override(perpixel.recipe(name), ["train.crop=64x64"])
        assert recipe.train.last_crop == (64, 64)


def test_a_finish_of_no_step_is_none():
    train = perpixel.override(RECIPE, ["train.steps=1", "train.crop=32x32"]).train
    assert (train.finish_steps, train.last_crop) == (0, (32, 32))
    train = perpixel.override(RECIPE, ["train.steps=10", "train.crop=32x32"]).train
    assert (train.finish_steps, train.last_crop) == (1, (360, 480))


def test_an_unknown_recipe_gets_a_suggestion():
    with pytest.raises(UsageError, match="Did you mean camvid/semantic_fpn_r18"):
        perpixel.recipe("camvid/semanticfpn_r18")


def test_a_recipe_can_come_from_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import perpixel\n"
        "mine = perpixel.override(perpixel.recipe('camvid/fcn_r18-d8'), ['train.steps=3'])\n"
        "other = 5\n"
    )
    assert perpixel.recipe(f"{file}:mine").train.steps == 3
    with pytest.raises(UsageError, match="'other' is no Recipe there; these are: mine"):
        perpixel.recipe(f"{file}:other")
    with pytest.raises(UsageError, match="name the recipe in the file too"):
        perpixel.recipe(str(file))
    file.write_text("import nothing_of_that_name")
    with pytest.raises(UsageError, match="does not run: ModuleNotFoundError"):
        perpixel.recipe(f"{file}:mine")
    with pytest.raises(UsageError, match="no such recipe file"):
        perpixel.recipe(f"{tmp_path}/absent.py:mine")


def test_differences_name_the_paths():
    changed = perpixel.override(RECIPE, ["train.steps=7", "model.auxiliary=none"])
    found = settings.differences(RECIPE, changed)
    assert "train.steps: 40000 -> 7" in found
    assert any(line.startswith("model.auxiliary.width: 64 -> None") for line in found)
    assert settings.differences(RECIPE, RECIPE) == []


def test_a_damaged_recipe_file_is_an_error():
    with pytest.raises(PerpixelError, match=r"run/recipe\.json"):
        settings.load('{"name": 1}', origin="run/recipe.json")
    with pytest.raises(PerpixelError, match=r"recipe\.json: not a recipe: Invalid JSON"):
        settings.load("{\n", origin="recipe.json")
