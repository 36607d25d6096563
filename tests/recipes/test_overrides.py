import pytest

import perpixel
from perpixel.errors import PerpixelError, UsageError
from perpixel.recipes import overrides

RECIPE = perpixel.recipe("camvid/fcn_r18-d8")


@pytest.mark.parametrize("name", perpixel.recipes())
def test_every_recipe_survives_json(name: str):
    recipe = perpixel.recipe(name)
    assert recipe.name == name
    assert overrides.load(overrides.dump(recipe), origin="test") == recipe


def test_settings_reach_every_depth():
    changed = perpixel.override(
        RECIPE,
        [
            "train.steps=7",
            "augment.crop_size=96x128",
            "optimizer.lr=0.5",
            "model.backbone.depth=50",
            "model.backbone.stem=deep",
            "model.backbone.stem=7x7",
            "model.aux_head=none",
            "augment.scale_range=[0.5, 1]",
            "evaluate.every=null",
            "train.precision=float32",
            "data.eval_split=2",
        ],
    )
    assert changed.train.steps == 7
    assert changed.augment.crop_size == (96, 128)
    assert changed.optimizer.lr == 0.5
    assert changed.model.backbone.depth == 50
    assert changed.model.backbone.stem == "7x7"
    assert changed.model.aux_head is None
    assert changed.augment.scale_range == (0.5, 1.0)
    assert changed.evaluate.every is None
    assert changed.train.precision == "float32"
    assert changed.data.eval_split == "2"
    assert RECIPE.train.steps != 7


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("train.stepz=1", "Did you mean train.steps"),
        ("trian.steps=1", "Did you mean train.steps"),
        ("train.images_per_step=8", "Did you mean train.batch_size .of all ranks"),
        ("data.samples_per_gpu=8", "Did you mean train.batch_size"),
        ("lr=0.1", "Did you mean optimizer.lr"),
        ("epochs=3", "Did you mean train.epochs, or the option --epochs"),
        ("early_stopping=5", r"Did you mean evaluate\.patience"),
        ("model.encoder_name=resnet34", r"Did you mean model\.backbone\.name"),
        ("work_dir=runs/a", "the option --out"),
        ("load_from=a.pth", "the option --init"),
        ("model.backbone.frozen_stages=1", r"Did you mean train\.freeze"),
        ("solver.ims_per_batch=8", r"Did you mean train\.batch_size"),
        ("augment.vflip=0.5", r"Did you mean augment\.vertical_flip_prob"),
        ("train.freeze=stage4", "'stage3' or 'backbone'"),
        ("optimizer.backbone_lr_mult=-1", "greater than or equal to 0"),
        ("imgsz=512", "Did you mean augment.crop_size"),
        ("batch=8", "Did you mean train.batch_size"),
        ("model.num_classes=4", "classes in a folder's dataset.toml"),
        ("train.crop_size=64x64", "Did you mean augment.crop_size"),
        ("model.backbone.kind=timm", "Did you mean type, as in model.backbone.type"),
        ("optimizer.type=adamw", "Did you mean optimizer.name"),
        ("train.crop=64x64", "Did you mean augment.crop_size"),
        ("augment.flip=0.2", "Did you mean augment.flip_prob"),
        ("train.ema=0.9", "Did you mean train.ema_decay"),
        ("device=cpu", "the option --device"),
        ("optimizer=adamw", "set those, as optimizer.<setting>=value"),
        ("train.steps", "path=value"),
        ("train.steps=many", "train.steps='many'"),
        ("train.steps=0", "train.steps=0"),
        ("model.backbone.depth=19", "^model.backbone.depth=19: .*18, 34, 50 or 101"),
        ("model.head.fpn_norm=true", r"unknown setting.* Set model\.head\.type=semantic_fpn first"),
        ("model.backbone.name=resnet50", r"Set model\.backbone\.type=timm first"),
        ("train.steps.more=1", "train.steps is 40000, a single value"),
        ("loss.ohem.threshold=1", r"loss\.ohem is off; turn it on with --set 'loss\.ohem="),
        ("augment.scale_range=[2, 1]", "from small to large"),
        ("inference.stride=8x8", "needs a window_size"),
        ("schedule.min_lr=2", "schedule.min_lr=2.0 is above optimizer.lr="),
        ("model.head.channels=0", "^model.head.channels=0"),
        ("model.backbone.type=vit", "^model.backbone.type='vit': There are 'resnet', 'timm'"),
        (
            "model.backbone=timm",
            "^model.backbone='timm': This is a group of settings",
        ),
        ("augment.crop_size=64", "augment.crop_size=64: A size is written 64x64"),
        ("input.mean=[1]", "^input.mean=[1]: There are too few numbers"),
        ("model.head.type=[1]", "^model.head.type=[1]: There are 'fcn'"),
        ("train.keep=3", r"Did you mean train\.keep_last"),
        ("schedule.floor=0", r"Did you mean schedule\.min_lr"),
        ("inference.window_size.foo=1", "inference.window_size is None, a single value"),
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


def test_folder_recipes_end_with_the_same_crop_size():
    for name in perpixel.recipes("folder/*"):
        recipe = perpixel.override(perpixel.recipe(name), ["augment.crop_size=64x64"])
        assert recipe.last_crop_size == (64, 64)


def test_a_final_phase_of_zero_steps_changes_no_crop():
    short = perpixel.override(RECIPE, ["train.steps=1", "augment.crop_size=32x32"])
    assert (short.train.final_phase_steps, short.last_crop_size) == (0, (32, 32))
    longer = perpixel.override(RECIPE, ["train.steps=10", "augment.crop_size=32x32"])
    assert (longer.train.final_phase_steps, longer.last_crop_size) == (1, (360, 480))


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
    with pytest.raises(UsageError, match="'other' is no Recipe; its recipes are: mine"):
        perpixel.recipe(f"{file}:other")
    with pytest.raises(UsageError, match="name the recipe in the file, too"):
        perpixel.recipe(str(file))
    file.write_text("import nothing_of_that_name")
    with pytest.raises(UsageError, match="does not run: ModuleNotFoundError"):
        perpixel.recipe(f"{file}:mine")
    with pytest.raises(UsageError, match="no such recipe file"):
        perpixel.recipe(f"{tmp_path}/absent.py:mine")


def test_differences_name_the_paths():
    changed = perpixel.override(RECIPE, ["train.steps=7", "model.aux_head=none"])
    lines = overrides.differences(RECIPE, changed)
    assert "train.steps: 40000 -> 7" in lines
    assert any(line.startswith("model.aux_head.channels: 64 -> None") for line in lines)
    assert overrides.differences(RECIPE, RECIPE) == []


def test_a_corrupt_recipe_file_is_an_error():
    with pytest.raises(PerpixelError, match=r"run/recipe\.json"):
        overrides.load('{"name": 1}', origin="run/recipe.json")
    with pytest.raises(PerpixelError, match=r"recipe\.json: not a recipe: Invalid JSON"):
        overrides.load("{\n", origin="recipe.json")


@pytest.mark.parametrize(
    ("epochs", "images", "steps"),
    [
        (10, 24, 30),
        (10, 25, 32),  # 31.25
        ("auto", 24, 450),
        ("auto", 4, 400),  # the least
        ("auto", 100_000, 20_000),  # the most
        ("null", 24, 7),
    ],
)
def test_epochs_become_steps(epochs, images: int, steps: int):
    recipe = perpixel.override(
        perpixel.recipe("folder/fast"),
        ["train.steps=7", f"train.epochs={epochs}", "train.batch_size=8"],
    ).with_steps(images)
    assert recipe.train.steps == steps
    assert recipe.with_steps(images) == recipe  # as a resumed run does


def test_a_number_of_steps_takes_the_place_of_epochs():
    recipe = perpixel.override(perpixel.recipe("folder/fast"), ["train.steps=7"])
    assert recipe.with_steps(1000).train.steps == 7


@pytest.mark.parametrize(
    ("settings", "every"),
    [
        (["evaluate.fraction=0.1"], 50),
        (["evaluate.fraction=0.0001"], 1),
        (["evaluate.fraction=0.1", "evaluate.every=7"], 7),
        ([], None),
    ],
)
def test_evaluations_divide_a_run(settings, every):
    base = perpixel.override(
        perpixel.recipe("camvid/fcn_r18-d8"), ["train.steps=500", "evaluate.every=null"]
    )
    assert perpixel.override(base, settings).evaluate_every == every
