"""Draws small synthetic street scenes, for a first run and for fast tests.

A scene is a street in perspective: sky, ground, buildings on either side, and then trees, cars and
people from far to near. Positions are in meters, (right, up, ahead): right of the street's middle,
above the ground, ahead of the camera. Classes share colors on purpose, so that position, shape and
texture are needed to tell them apart.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from perpixel.data.dataset import Classes, Rows
from perpixel.io.images import Array
from perpixel.recipes.base import Size
from perpixel.recipes.overrides import require_known
from perpixel.recipes.schema import IGNORE_INDEX

SKY, BUILDING, ROAD, PAVEMENT, TREE, CAR, PERSON = range(7)

CLASSES = Classes(
    names=("sky", "building", "road", "pavement", "tree", "car", "person"),
    palette=(
        (70, 130, 180), (128, 64, 64), (128, 64, 128), (244, 35, 232),
        (107, 142, 35), (0, 0, 142), (220, 20, 60),
    ),
)  # fmt: skip

_COUNTS = {"train": 800, "val": 60}
_SEED = 20_151

_GRAYS = ((78, 78, 82), (100, 100, 102), (120, 118, 114), (150, 148, 144))
_AIR = ((110, 160, 228), (165, 198, 232), (196, 206, 216), (140, 146, 155), (228, 186, 150))
_WALLS = ((150, 82, 62), (188, 160, 128), (122, 125, 130), (208, 196, 170), (120, 140, 168))
_LEAVES = ((60, 105, 42), (88, 126, 50), (40, 84, 46), (104, 138, 70), (176, 120, 50))
_PAINTS = ((190, 24, 28), (24, 56, 150), (24, 24, 28), (236, 236, 234), (226, 186, 30))
_CLOTHES = ((214, 40, 120), (240, 116, 24), (20, 150, 150), (128, 56, 170), (240, 220, 60))
_SHARED = (_GRAYS[1], _AIR[1], _AIR[3], _WALLS[0], _WALLS[1])
_CARS, _COATS = 2 * _PAINTS + _SHARED, 3 * _CLOTHES + _SHARED
_COLORS = tuple(
    np.array(rgb) for rgb in (_AIR, _WALLS, _GRAYS[:3], _GRAYS[1:], _LEAVES, _CARS, _COATS)
)
"""The colors of each class, RGB [colors, 3]; repeats make a color more frequent."""

_SKIN = np.array(((232, 190, 160), (190, 140, 105), (120, 82, 60)))
_BARK, _RUBBER = np.array((84, 66, 52)), np.array((28, 28, 32))
_LIT_WINDOW, _LAMP = np.array((225, 205, 140)), np.array((200, 40, 40))

_GRAIN = np.array((2, 5, 4, 9, 16, 2, 4), np.float32)
"""The amplitude of each class's texture, in levels of 0..255."""

_CIRCLE = np.array([(np.cos(angle), np.sin(angle)) for angle in np.arange(12) * (np.pi / 6)])
"""The unit circle as a polygon, [12, 2]."""

Rng = np.random.Generator
Triple = tuple[float, float, float]
Floats = npt.NDArray[np.float64]
"""Points in meters, or RGB colors, clipped to 0..255 when drawn, [..., 3].

A shape is a convex polygon, [corners, 3]; a patch is a rectangle, [4, 3].
"""


class SyntheticStreets:
    """The scenes of a split, "train" or "val": a `Dataset` without files.

    A scene depends only on its split, its index and the size (height, width).
    """

    classes = CLASSES

    def __init__(self, split: str, *, count: int | None = None, size: Size = (96, 128)) -> None:
        require_known(split, _COUNTS, f"scenes has no split {split!r}")
        self.split = split
        self.size = size
        self._indices = range(_COUNTS[split] if count is None else count)

    def __len__(self) -> int:
        return len(self._indices)

    def sample_id(self, index: int) -> str:
        """The scene's name, such as "val/00012.png"."""
        return f"{self.split}/{self._indices[index]:05d}.png"

    def image(self, index: int, *, rows: Rows | None = None) -> Array:  # noqa: ARG002
        """The image, uint8 RGB [height, width, 3]; all rows are drawn."""
        return _draw(self.split, self._indices[index], self.size)[0].copy()

    def label(self, index: int) -> Array:
        """The image's mask, uint8 [height, width]: 0..6, and IGNORE_INDEX at class borders."""
        return _draw(self.split, self._indices[index], self.size)[1].copy()


@dataclass(frozen=True)
class _Street:
    """Distances of curb and walls from the street's middle, and the typical building height."""

    curb: float
    wall: float
    building_height: float


@dataclass(frozen=True)
class _Object:
    """A tree, car or person on a patch of the ground; `ahead` is the near side of the patch."""

    class_index: int
    right: float
    ahead: float
    width: float
    depth: float


@dataclass(frozen=True)
class _Scene:
    """A canvas and a camera.

    The canvas, uint8 [height, width, 4], holds red, green, blue and the class, so that image and
    label are drawn together. The camera is at `eye`, (right, up), and looks along the street at the
    pixel `vanishing_point`. At one meter ahead, a meter is `focal` pixels; both (column, row).
    """

    canvas: Array
    eye: Floats
    vanishing_point: Floats
    focal: Floats

    def project(self, points: Floats) -> npt.NDArray[np.int32]:
        """Projects points to pixels (column, row), [..., 2]."""
        slopes = (points[..., :2] - self.eye) / points[..., 2:]
        return np.rint(self.vanishing_point + self.focal * slopes).astype(np.int32)

    def fill(self, shapes: Floats, color: Floats, class_index: int) -> None:
        """Fills non-overlapping shapes, [count, corners, 3], with one color, [3]."""
        cv2.fillPoly(self.canvas, list(self.project(shapes)), (*color.tolist(), class_index))

    def fill_in_order(self, shapes: Floats, colors: Floats, class_index: int) -> None:
        """Fills shapes one over the other, each with its color of `colors`, [count, 3]."""
        for shape, color in zip(self.project(shapes), colors.tolist(), strict=True):
            cv2.fillConvexPoly(self.canvas, shape, (*color, class_index))

    def shade(self, shapes: Floats, factor: float) -> None:
        """Darkens the pixels of all shapes; their classes stay."""
        mask = np.zeros(self.canvas.shape[:2], np.uint8)
        for shape in self.project(shapes):
            cv2.fillConvexPoly(mask, shape, 1)
        is_shaded = mask > 0
        self.canvas[is_shaded] = self.canvas[is_shaded] * (factor, factor, factor, 1)


@lru_cache(maxsize=4)
def _draw(split: str, index: int, size: Size) -> tuple[Array, Array]:
    """Draws image and label; cached, as image() and label() both need it: never write to them."""
    rng = np.random.default_rng((_SEED, list(_COUNTS).index(split), index))
    height, width = size
    scene = _Scene(
        canvas=np.zeros((height, width, 4), np.uint8),
        eye=rng.uniform((-2.5, 1.8), (2.5, 2.5)),
        vanishing_point=rng.uniform((0.35, 0.38), (0.65, 0.5)) * (width, height),
        focal=rng.uniform(1.2, 1.5) * np.array((height, -height)),
    )
    curb = rng.uniform(2.2, 3.6)
    street = _Street(curb, curb + rng.uniform(3.5, 6), rng.uniform(5.5, 14))
    objects = _place_objects(scene, rng, street)
    _draw_sky(scene, rng)
    _draw_ground(scene, rng, street)
    _draw_shadows(scene, rng, street, objects)
    _draw_buildings(scene, rng, street)
    draw = {TREE: _draw_tree, CAR: _draw_car, PERSON: _draw_person}
    for thing in sorted(objects, key=lambda thing: -thing.ahead):
        draw[thing.class_index](scene, rng, thing)
    label = scene.canvas[..., 3]
    # The pixels on either side of a border are ignored: the blur mixes two classes there.
    is_border = cv2.morphologyEx(label, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    return _add_camera_effects(scene.canvas, rng), np.where(
        is_border, np.uint8(IGNORE_INDEX), label
    )


def _place_objects(scene: _Scene, rng: Rng, street: _Street) -> list[_Object]:
    """Places cars on the road, trees along the curbs, and people anywhere between the walls.

    Each class has slots, one behind the other, so that two objects of a class never overlap.
    """
    objects = []
    for slot in rng.permutation(3)[: rng.integers(1, 3)]:
        width, depth = (4.0, 1.8) if rng.random() < 0.25 else (1.8, 4.0)
        right = rng.choice((-1, 1)) * (street.curb - width / 2 - rng.uniform(0, 1))
        objects.append(_Object(CAR, right, 6 + 4.2 * slot, width, depth))
    for slot in rng.permutation(4)[: rng.integers(1, 4)]:
        right = rng.choice((-1, 1)) * (street.curb + rng.uniform(0.5, 1))
        objects.append(_Object(TREE, right, 6.5 + 3 * slot + rng.uniform(0, 1), 2.4, 2.4))
    for slot in rng.permutation(4)[: rng.integers(2, 4)]:
        ahead, reach = 4.2 + 0.9 * slot + rng.uniform(0, 0.5), street.wall - 0.4
        in_view = scene.eye[0] + ahead * rng.uniform(-0.45, 0.45)
        objects.append(_Object(PERSON, np.clip(in_view, -reach, reach), ahead, 0.6, 0.4))
    return objects


def _draw_sky(scene: _Scene, rng: Rng) -> None:
    """Draws a gradient down to the horizon, and clouds."""
    height, width = scene.canvas.shape[:2]
    horizon = int(scene.vanishing_point[1])
    top = _color(rng, SKY)
    low = 0.5 * top + 0.5 * _color(rng, SKY)
    scene.canvas[..., 3] = SKY
    scene.canvas[: horizon + 1, :, :3] = np.linspace(top, low, horizon + 1).clip(0, 255)[:, None]
    for _ in range(rng.integers(0, 6)):
        center = (rng.uniform(0, width), rng.uniform(0, horizon))
        axes = (width * rng.uniform(0.1, 0.4), height * rng.uniform(0.02, 0.1))
        color = 0.6 * low + 0.4 * rng.uniform(140, 255)
        cv2.ellipse(scene.canvas, (center, axes, 0), (*color.tolist(), SKY), -1)


def _draw_ground(scene: _Scene, rng: Rng, street: _Street) -> None:
    """Draws pavement with joints, and the road with curbs, lane marks and sometimes a crosswalk."""
    curb, wall, road = street.curb, street.wall, _color(rng, ROAD)
    pavement = 0.4 * road + 0.6 * _color(rng, PAVEMENT) + rng.uniform(30, 60)
    scene.canvas[int(scene.vanishing_point[1]) + 1 :] = (*pavement.clip(0, 255), PAVEMENT)
    joint, across, along = pavement * 0.7, _ground(-40, 40, 2, 18), _ground(-wall, wall, 1.5, 30)
    scene.fill(_panes(across, 1, 16, (1, 0.08)), joint, PAVEMENT)
    scene.fill(_panes(along, round(2 * wall), 1, (0.08, 1)), joint, PAVEMENT)
    scene.fill(_ground(-curb - 0.4, curb + 0.4, 1.5, 300)[None], pavement * 1.25, PAVEMENT)
    scene.fill(_ground(-curb, curb, 1.5, 300)[None], road, ROAD)
    paint = road + rng.uniform(30, 110)
    line = _ground(-0.08, 0.08, rng.uniform(1.5, 4), 40)
    scene.fill(_panes(line, 1, int(rng.integers(6, 12)), (1, 0.5)), paint, ROAD)
    if rng.random() < 0.3:
        near = rng.uniform(5, 12)
        crosswalk = _ground(-curb, curb, near, near + 2.5)
        scene.fill(_panes(crosswalk, round(2 * curb), 1, (0.5, 1)), paint, ROAD)


def _draw_shadows(scene: _Scene, rng: Rng, street: _Street, objects: list[_Object]) -> None:
    """Darkens the ground beside every object, and sometimes along the buildings of one side."""
    offset = rng.uniform(-0.8, 0.8)
    patches = [
        _ground(o.right - o.width / 2, o.right + o.width / 2, o.ahead, o.ahead + o.depth)
        for o in objects
    ]
    scene.shade(np.stack(patches) + np.array((offset, 0, 0)), rng.uniform(0.6, 0.9))
    if rng.random() < 0.4:
        end = rng.uniform(-street.curb, street.curb)
        left, right = (-street.wall, end) if offset > 0 else (end, street.wall)
        scene.shade(_ground(left, right, 1.5, rng.uniform(8, 40))[None], rng.uniform(0.5, 0.8))


def _draw_buildings(scene: _Scene, rng: Rng, street: _Street) -> None:
    """Draws sometimes a block across the far end of the street, then a row with gaps per side."""
    depth = 12
    if rng.random() < 0.7:
        for left in range(-36, 36, depth):
            height = street.building_height * rng.uniform(0.6, 1.5)
            _draw_building(scene, rng, _box(scene, (left, 0, 60), (depth, height, depth))[2:])
    for row in (-street.wall - depth, street.wall):
        ahead = 45.0
        while ahead > 4:
            length = rng.uniform(6, 14)
            ahead = max(ahead - length, 1.5)
            height = street.building_height * rng.uniform(0.6, 1.5)
            if rng.random() < 0.8:
                _draw_building(
                    scene, rng, _box(scene, (row, 0, ahead), (depth, height, length))[1:]
                )


def _draw_building(scene: _Scene, rng: Rng, walls: Floats) -> None:
    """Draws walls, [count, 4, 3], with rows of windows, some of them lit."""
    color, glass = _color(rng, BUILDING), _color(rng, SKY) * rng.uniform(0.2, 0.6)
    pitch, panes = rng.uniform(2, 3.2), []
    for wall in walls:
        scene.fill(wall[None], color * rng.uniform(0.7, 1), BUILDING)
        length, height = np.abs(wall[1] - wall[0]).max(), wall[2, 1]
        panes.append(_panes(wall, round(length / pitch), round(height / 3.2), (0.5, 0.5)))
    windows = np.concatenate(panes)
    scene.fill(windows, glass, BUILDING)
    scene.fill(windows[rng.random(len(windows)) < 0.15], _LIT_WINDOW, BUILDING)


def _draw_tree(scene: _Scene, rng: Rng, tree: _Object) -> None:
    """Draws a trunk, and a crown of leaf clusters, the upper ones lighter and last."""
    height, spread, count = rng.uniform(3, 5), rng.uniform(1.3, 2.2), 10
    trunk = ((-0.28, 0), (0.28, 0), (0.22, height), (-0.22, height))
    scene.fill(_upright(tree, (trunk,)), _BARK * rng.uniform(0.6, 1), TREE)
    across, up = spread * rng.uniform(-0.6, 0.6, (2, count))
    up.sort()
    centers = np.stack((tree.right + across, height + up, np.full(count, tree.ahead)), -1)
    clusters = _discs(centers, (1, 0, 0), spread * rng.uniform(0.4, 0.6, count))
    tones = 1 + 0.2 * up / spread + rng.uniform(-0.15, 0.15, count)
    scene.fill_in_order(clusters, _color(rng, TREE) * tones[:, None], TREE)


def _draw_car(scene: _Scene, rng: Rng, car: _Object) -> None:
    """Draws boxes for chassis, body and cabin, with windows, lamps and wheels.

    The near side is the front or the rear, or a flank when the car stands across the street.
    """
    paint, glass = _color(rng, CAR), _color(rng, SKY) * rng.uniform(0.2, 0.5)
    waist, roof = rng.uniform(0.85, 1.05), rng.uniform(1.4, 2)
    left, near, width, depth = car.right - car.width / 2, car.ahead, car.width, car.depth
    flank, end, along, inset, tail = (1, 2, (0, 0, 1), 0.1, 0.5)
    if width > depth:
        flank, end, along, inset, tail = (2, 1, (1, 0, 0), 0.7, 0.1)
    cabin_size = (width - 2 * inset, roof - waist, depth - 2.5 * tail)
    chassis = _box(scene, (left, 0, near + 0.1), (width, 0.4, depth - 0.2))
    body = _box(scene, (left, 0.3, near), (width, waist - 0.3, depth))
    cabin = _box(scene, (left + inset, waist, near + tail), cabin_size)
    painted = paint * np.array((1.1, 0.75, 0.95))[:, None]
    colors = np.concatenate((np.tile(_RUBBER, (3, 1)), painted, painted))
    scene.fill_in_order(np.concatenate((chassis, body, cabin)), colors, CAR)
    scene.fill(_panes(cabin[flank], 2, 1, (0.8, 0.7)), glass, CAR)
    scene.fill(_panes(cabin[end], 1, 1, (0.8, 0.7)), glass, CAR)
    scene.fill(_panes(body[end], 5, 2, (0.9, 0.5))[[1, 9]], _LAMP, CAR)
    axles = body[flank][0] + np.array(((0.2,), (0.8,))) * (body[flank][1] - body[flank][0])
    scene.fill(_discs(axles, along, np.array((0.36, 0.36))), _RUBBER, CAR)


def _draw_person(scene: _Scene, rng: Rng, person: _Object) -> None:
    """Draws walking legs, arms, a coat, and a head with hair."""
    height, girth, step = rng.uniform(1.4, 1.9), rng.uniform(0.3, 0.4), rng.uniform(0, 0.12)
    hip, neck, head = 0.48 * height, 0.83 * height, 0.11 * height
    legs = [((-0.24, hip), (0.24, hip), (x + 0.16, 0), (x - 0.16, 0)) for x in (-step, step)]
    arms = ((-0.1, neck), (0.1, neck), (girth + 0.12, hip), (-girth - 0.12, hip))
    trunk = ((-girth, neck), (girth, neck), (girth * 0.8, hip), (-girth * 0.8, hip))
    coat, trousers = _color(rng, PERSON), _color(rng, PERSON) * rng.uniform(0.6, 1)
    clothes = np.stack((trousers * 0.8, trousers, coat * 0.85, coat))
    scene.fill_in_order(_upright(person, (*legs, arms, trunk)), clothes, PERSON)
    skin = _SKIN[rng.integers(len(_SKIN))]
    tones = np.stack((skin * rng.uniform(0.2, 0.7), skin))
    centers = np.array([(person.right, neck + up * head, person.ahead) for up in (1.1, 0.7)])
    scene.fill_in_order(_discs(centers, (1, 0, 0), head * np.array((1, 0.8))), tones, PERSON)


def _add_camera_effects(canvas: Array, rng: Rng) -> Array:
    """Adds texture, light from one side, blur and noise to the canvas; returns the image."""
    height, width = canvas.shape[:2]
    coarse = rng.standard_normal((height // 4 + 1, width // 4 + 1), np.float32)
    fine = 3 * rng.random((height, width), np.float32) - 1.5
    texture = cv2.resize(coarse, (width, height)) + fine
    image = canvas[..., :3] + (texture * _GRAIN[canvas[..., 3]])[..., None]
    warmth, tilt = rng.uniform(-0.12, 0.12), rng.uniform(-0.2, 0.2)
    tint = rng.uniform(0.75, 1.15) * np.array((1 + warmth, 1, 1 - warmth), np.float32)
    image *= tint * np.linspace(1 - tilt, 1 + tilt, width, dtype=np.float32)[:, None]
    blurred = cv2.GaussianBlur(image, (3, 3), rng.uniform(0.4, 0.8))
    noise = (rng.random(image.shape, np.float32) - 0.5) * np.float32(rng.uniform(4, 10))
    return np.asarray(np.clip(blurred + noise, 0, 255), np.uint8)


def _color(rng: Rng, class_index: int) -> Floats:
    """Samples a color for an object of a class, [3]."""
    colors = _COLORS[class_index]
    base = colors[rng.integers(len(colors))]
    return np.asarray(base * rng.uniform(0.85, 1.15) + 6 * rng.standard_normal(3))


def _ground(left: float, right: float, near: float, far: float) -> Floats:
    """A patch of the ground."""
    return np.array(((left, 0, near), (right, 0, near), (right, 0, far), (left, 0, far)), float)


def _box(scene: _Scene, corner: Triple, size: Triple) -> Floats:
    """A box's patches in drawing order, [3, 4, 3]: top, the visible side, and front.

    `corner` is the lowest, leftmost, nearest; side and front begin with their bottom edge.
    """
    (left, bottom, near), (width, height, depth) = corner, size
    right, top, far = left + width, bottom + height, near + depth
    side = right if right < scene.eye[0] else left
    roof = ((left, top, near), (right, top, near), (right, top, far), (left, top, far))
    flank = ((side, bottom, near), (side, bottom, far), (side, top, far), (side, top, near))
    front = ((left, bottom, near), (right, bottom, near), (right, top, near), (left, top, near))
    return np.array((roof, flank, front))


def _panes(patch: Floats, columns: int, rows: int, share: tuple[float, float]) -> Floats:
    """A grid of panes on a patch, [columns * rows, 4, 3]; each fills `share` of its cell."""
    edges = patch[[1, 3]] - patch[0]
    return np.asarray(patch[0] + _unit_panes(columns, rows, share) @ edges)


@lru_cache  # a fifth of a scene's time
def _unit_panes(columns: int, rows: int, share: tuple[float, float]) -> Floats:
    """The panes of the unit square, [columns * rows, 4, 2]."""
    cells = np.stack(np.meshgrid(np.arange(columns), np.arange(rows), indexing="ij"), -1)
    corners = 0.5 + 0.5 * np.array(((-1, -1), (1, -1), (1, 1), (-1, 1))) * share
    return (cells.reshape(-1, 1, 2) + corners) / (columns, rows)


def _upright(thing: _Object, outlines: tuple[tuple[tuple[float, float], ...], ...]) -> Floats:
    """Flat shapes that face the camera, [count, corners, 3], from (right, up) of an object."""
    across, up = np.moveaxis(np.array(outlines), -1, 0)
    return np.stack((thing.right + across, up, np.full_like(up, thing.ahead)), -1)


def _discs(centers: Floats, along: Triple, radii: Floats) -> Floats:
    """Upright discs, [count, 12, 3], in the plane of the direction `along` and up."""
    circle = _CIRCLE @ np.array((along, (0, 1, 0)))
    return np.asarray(centers[:, None] + radii[:, None, None] * circle)
