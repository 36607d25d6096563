"""Small street-like images, drawn by a program: for a first run and for fast tests.

A scene is a street in perspective: sky, ground, buildings on either side, and then trees, cars and
people from far to near. They stand in meters, (right, up, ahead): right of the street's middle,
above the ground, ahead of the camera. Classes share colors on purpose: it takes place, shape and
texture to tell them apart.
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
"""What every class is painted with, RGB [colors, 3]; repeats make a color more frequent."""

_SKIN = np.array(((232, 190, 160), (190, 140, 105), (120, 82, 60)))
_BARK, _RUBBER = np.array((84, 66, 52)), np.array((28, 28, 32))
_LIT_WINDOW, _LAMP = np.array((225, 205, 140)), np.array((200, 40, 40))

_GRAIN = np.array((2, 5, 4, 9, 16, 2, 4), np.float32)
"""How rough the surfaces of a class look, in levels of 0..255."""

_CIRCLE = np.array([(np.cos(turn), np.sin(turn)) for turn in np.arange(12) * (np.pi / 6)])
"""The unit circle as a polygon, [12, 2]."""

Rng = np.random.Generator
Triple = tuple[float, float, float]
Floats = npt.NDArray[np.float64]
"""Points in meters, or colors, RGB that saturates at 0 and 255 when drawn, [..., 3].

A shape is a convex outline, [corners, 3], a patch a rectangle's, [4, 3].
"""


class SyntheticStreets:
    """The scenes of a split, "train" or "val": a `Dataset` that needs no files.

    A scene depends on its split and index, and on the size (height, width), alone.
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
        """The file name that the scene would have, such as "val/00012.png"."""
        return f"{self.split}/{self._indices[index]:05d}.png"

    def image(self, index: int, *, rows: Rows | None = None) -> Array:  # noqa: ARG002
        """The image, uint8 RGB [height, width, 3], whatever `rows` are wanted."""
        return _draw(self.split, self._indices[index], self.size)[0].copy()

    def label(self, index: int) -> Array:
        """Its mask, uint8 [height, width]: 0..6, and IGNORE_INDEX where classes meet."""
        return _draw(self.split, self._indices[index], self.size)[1].copy()


@dataclass(frozen=True)
class _Street:
    """How far curb and wall are from the street's middle, and how tall buildings tend to be."""

    curb: float
    wall: float
    tall: float


@dataclass(frozen=True)
class _Thing:
    """A tree, car or person on a patch of the ground: the middle and the near side of the patch."""

    kind: int
    right: float
    ahead: float
    wide: float
    long: float


@dataclass(frozen=True)
class _Sheet:
    """A canvas, and the camera's view of it.

    The canvas, uint8 [height, width, 4], holds red, green, blue and the class, so that one stroke
    draws image and label alike. The camera is at `eye`, (right, up), and looks along the street
    at the pixel `vanishing`. At one meter ahead, a meter is `focal` pixels; both (column, row).
    """

    canvas: Array
    eye: Floats
    vanishing: Floats
    focal: Floats

    def pixels(self, points: Floats) -> npt.NDArray[np.int32]:
        """(column, row) of points, [..., 2]."""
        slopes = (points[..., :2] - self.eye) / points[..., 2:]
        return np.rint(self.vanishing + self.focal * slopes).astype(np.int32)

    def fill(self, shapes: Floats, color: Floats, kind: int) -> None:
        """Fills shapes, [count, corners, 3], that do not overlap, with one color, [3]."""
        cv2.fillPoly(self.canvas, list(self.pixels(shapes)), (*color.tolist(), kind))

    def layer(self, shapes: Floats, colors: Floats, kind: int) -> None:
        """Fills shapes one over the other, each with its own of `colors`, [count, 3]."""
        for shape, color in zip(self.pixels(shapes), colors.tolist(), strict=True):
            cv2.fillConvexPoly(self.canvas, shape, (*color, kind))

    def shade(self, shapes: Floats, factor: float) -> None:
        """Darkens what is drawn where any of the shapes is; the class stays."""
        mask = np.zeros(self.canvas.shape[:2], np.uint8)
        for shape in self.pixels(shapes):
            cv2.fillConvexPoly(mask, shape, 1)
        shaded = mask > 0
        self.canvas[shaded] = self.canvas[shaded] * (factor, factor, factor, 1)


@lru_cache(maxsize=4)
def _draw(split: str, index: int, size: Size) -> tuple[Array, Array]:
    """Image and mask; cached for image() and label() in turn, so never write to them."""
    rng = np.random.default_rng((_SEED, list(_COUNTS).index(split), index))
    height, width = size
    sheet = _Sheet(
        canvas=np.zeros((height, width, 4), np.uint8),
        eye=rng.uniform((-2.5, 1.8), (2.5, 2.5)),
        vanishing=rng.uniform((0.35, 0.38), (0.65, 0.5)) * (width, height),
        focal=rng.uniform(1.2, 1.5) * np.array((height, -height)),
    )
    curb = rng.uniform(2.2, 3.6)
    street = _Street(curb, curb + rng.uniform(3.5, 6), rng.uniform(5.5, 14))
    things = _place(sheet, rng, street)
    _draw_sky(sheet, rng)
    _draw_ground(sheet, rng, street)
    _draw_shadows(sheet, rng, street, things)
    _draw_buildings(sheet, rng, street)
    draw = {TREE: _draw_tree, CAR: _draw_car, PERSON: _draw_person}
    for thing in sorted(things, key=lambda thing: -thing.ahead):
        draw[thing.kind](sheet, rng, thing)
    label = sheet.canvas[..., 3]
    # The pixels on either side of a border have no label: the blur mixes two classes there.
    meet = cv2.morphologyEx(label, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    return _photograph(sheet.canvas, rng), np.where(meet, np.uint8(IGNORE_INDEX), label)


def _place(sheet: _Sheet, rng: Rng, street: _Street) -> list[_Thing]:
    """Cars on the road, trees along the curbs, and people anywhere between the walls.

    Each kind has slots, one behind the other, so that two of a kind never share a place.
    """
    things = []
    for slot in rng.permutation(3)[: rng.integers(1, 3)]:
        wide, long = (4.0, 1.8) if rng.random() < 0.25 else (1.8, 4.0)
        right = rng.choice((-1, 1)) * (street.curb - wide / 2 - rng.uniform(0, 1))
        things.append(_Thing(CAR, right, 6 + 4.2 * slot, wide, long))
    for slot in rng.permutation(4)[: rng.integers(1, 4)]:
        right = rng.choice((-1, 1)) * (street.curb + rng.uniform(0.5, 1))
        things.append(_Thing(TREE, right, 6.5 + 3 * slot + rng.uniform(0, 1), 2.4, 2.4))
    for slot in rng.permutation(4)[: rng.integers(2, 4)]:
        ahead, reach = 4.2 + 0.9 * slot + rng.uniform(0, 0.5), street.wall - 0.4
        in_view = sheet.eye[0] + ahead * rng.uniform(-0.45, 0.45)
        things.append(_Thing(PERSON, np.clip(in_view, -reach, reach), ahead, 0.6, 0.4))
    return things


def _draw_sky(sheet: _Sheet, rng: Rng) -> None:
    """A gradient down to the horizon, and clouds."""
    height, width = sheet.canvas.shape[:2]
    horizon = int(sheet.vanishing[1])
    top = _color(rng, SKY)
    low = 0.5 * top + 0.5 * _color(rng, SKY)
    sheet.canvas[..., 3] = SKY
    sheet.canvas[: horizon + 1, :, :3] = np.linspace(top, low, horizon + 1).clip(0, 255)[:, None]
    for _ in range(rng.integers(0, 6)):
        center = (rng.uniform(0, width), rng.uniform(0, horizon))
        axes = (width * rng.uniform(0.1, 0.4), height * rng.uniform(0.02, 0.1))
        color = 0.6 * low + 0.4 * rng.uniform(140, 255)
        cv2.ellipse(sheet.canvas, (center, axes, 0), (*color.tolist(), SKY), -1)


def _draw_ground(sheet: _Sheet, rng: Rng, street: _Street) -> None:
    """Pavement with joints, and on it the road with curbs, lane marks and at times a zebra."""
    curb, wall, road = street.curb, street.wall, _color(rng, ROAD)
    pavement = 0.4 * road + 0.6 * _color(rng, PAVEMENT) + rng.uniform(30, 60)
    sheet.canvas[int(sheet.vanishing[1]) + 1 :] = (*pavement.clip(0, 255), PAVEMENT)
    joint, across, along = pavement * 0.7, _ground(-40, 40, 2, 18), _ground(-wall, wall, 1.5, 30)
    sheet.fill(_panes(across, 1, 16, (1, 0.08)), joint, PAVEMENT)
    sheet.fill(_panes(along, round(2 * wall), 1, (0.08, 1)), joint, PAVEMENT)
    sheet.fill(_ground(-curb - 0.4, curb + 0.4, 1.5, 300)[None], pavement * 1.25, PAVEMENT)
    sheet.fill(_ground(-curb, curb, 1.5, 300)[None], road, ROAD)
    paint = road + rng.uniform(30, 110)
    line = _ground(-0.08, 0.08, rng.uniform(1.5, 4), 40)
    sheet.fill(_panes(line, 1, int(rng.integers(6, 12)), (1, 0.5)), paint, ROAD)
    if rng.random() < 0.3:
        near = rng.uniform(5, 12)
        zebra = _ground(-curb, curb, near, near + 2.5)
        sheet.fill(_panes(zebra, round(2 * curb), 1, (0.5, 1)), paint, ROAD)


def _draw_shadows(sheet: _Sheet, rng: Rng, street: _Street, things: list[_Thing]) -> None:
    """Shadows on the ground: beside every thing, and at times of the buildings on one side."""
    lean = rng.uniform(-0.8, 0.8)
    patches = [
        _ground(it.right - it.wide / 2, it.right + it.wide / 2, it.ahead, it.ahead + it.long)
        for it in things
    ]
    sheet.shade(np.stack(patches) + np.array((lean, 0, 0)), rng.uniform(0.6, 0.9))
    if rng.random() < 0.4:
        end = rng.uniform(-street.curb, street.curb)
        left, right = (-street.wall, end) if lean > 0 else (end, street.wall)
        sheet.shade(_ground(left, right, 1.5, rng.uniform(8, 40))[None], rng.uniform(0.5, 0.8))


def _draw_buildings(sheet: _Sheet, rng: Rng, street: _Street) -> None:
    """At times a block across the street's far end, then a row on either side with gaps."""
    deep = 12
    if rng.random() < 0.7:
        for left in range(-36, 36, deep):
            tall = street.tall * rng.uniform(0.6, 1.5)
            _draw_building(sheet, rng, _box(sheet, (left, 0, 60), (deep, tall, deep))[2:])
    for row in (-street.wall - deep, street.wall):
        ahead = 45.0
        while ahead > 4:
            long = rng.uniform(6, 14)
            ahead = max(ahead - long, 1.5)
            tall = street.tall * rng.uniform(0.6, 1.5)
            if rng.random() < 0.8:
                _draw_building(sheet, rng, _box(sheet, (row, 0, ahead), (deep, tall, long))[1:])


def _draw_building(sheet: _Sheet, rng: Rng, walls: Floats) -> None:
    """Walls, [count, 4, 3], with rows of windows, some of them lit."""
    color, glass = _color(rng, BUILDING), _color(rng, SKY) * rng.uniform(0.2, 0.6)
    pitch, panes = rng.uniform(2, 3.2), []
    for wall in walls:
        sheet.fill(wall[None], color * rng.uniform(0.7, 1), BUILDING)
        long, tall = np.abs(wall[1] - wall[0]).max(), wall[2, 1]
        panes.append(_panes(wall, round(long / pitch), round(tall / 3.2), (0.5, 0.5)))
    windows = np.concatenate(panes)
    sheet.fill(windows, glass, BUILDING)
    sheet.fill(windows[rng.random(len(windows)) < 0.15], _LIT_WINDOW, BUILDING)


def _draw_tree(sheet: _Sheet, rng: Rng, tree: _Thing) -> None:
    """A trunk, and a crown of leaf clusters, the upper ones lighter and drawn last."""
    tall, spread, count = rng.uniform(3, 5), rng.uniform(1.3, 2.2), 10
    trunk = ((-0.28, 0), (0.28, 0), (0.22, tall), (-0.22, tall))
    sheet.fill(_upright(tree, (trunk,)), _BARK * rng.uniform(0.6, 1), TREE)
    across, up = spread * rng.uniform(-0.6, 0.6, (2, count))
    up.sort()
    centers = np.stack((tree.right + across, tall + up, np.full(count, tree.ahead)), -1)
    clusters = _discs(centers, (1, 0, 0), spread * rng.uniform(0.4, 0.6, count))
    tones = 1 + 0.2 * up / spread + rng.uniform(-0.15, 0.15, count)
    sheet.layer(clusters, _color(rng, TREE) * tones[:, None], TREE)


def _draw_car(sheet: _Sheet, rng: Rng, car: _Thing) -> None:
    """Boxes for chassis, body and cabin, with windows, lamps and wheels.

    Its near side is an end, or when the car stands across the street a flank.
    """
    paint, glass = _color(rng, CAR), _color(rng, SKY) * rng.uniform(0.2, 0.5)
    waist, roof = rng.uniform(0.85, 1.05), rng.uniform(1.4, 2)
    left, near, wide, long = car.right - car.wide / 2, car.ahead, car.wide, car.long
    flank, end, along, inset, tail = (1, 2, (0, 0, 1), 0.1, 0.5)
    if wide > long:
        flank, end, along, inset, tail = (2, 1, (1, 0, 0), 0.7, 0.1)
    smaller = (wide - 2 * inset, roof - waist, long - 2.5 * tail)
    chassis = _box(sheet, (left, 0, near + 0.1), (wide, 0.4, long - 0.2))
    body = _box(sheet, (left, 0.3, near), (wide, waist - 0.3, long))
    cabin = _box(sheet, (left + inset, waist, near + tail), smaller)
    painted = paint * np.array((1.1, 0.75, 0.95))[:, None]
    colors = np.concatenate((np.tile(_RUBBER, (3, 1)), painted, painted))
    sheet.layer(np.concatenate((chassis, body, cabin)), colors, CAR)
    sheet.fill(_panes(cabin[flank], 2, 1, (0.8, 0.7)), glass, CAR)
    sheet.fill(_panes(cabin[end], 1, 1, (0.8, 0.7)), glass, CAR)
    sheet.fill(_panes(body[end], 5, 2, (0.9, 0.5))[[1, 9]], _LAMP, CAR)
    axles = body[flank][0] + np.array(((0.2,), (0.8,))) * (body[flank][1] - body[flank][0])
    sheet.fill(_discs(axles, along, np.array((0.36, 0.36))), _RUBBER, CAR)


def _draw_person(sheet: _Sheet, rng: Rng, person: _Thing) -> None:
    """Legs in step, arms, a coat, and a head with hair."""
    tall, girth, step = rng.uniform(1.4, 1.9), rng.uniform(0.3, 0.4), rng.uniform(0, 0.12)
    hip, neck, head = 0.48 * tall, 0.83 * tall, 0.11 * tall
    legs = [((-0.24, hip), (0.24, hip), (x + 0.16, 0), (x - 0.16, 0)) for x in (-step, step)]
    arms = ((-0.1, neck), (0.1, neck), (girth + 0.12, hip), (-girth - 0.12, hip))
    trunk = ((-girth, neck), (girth, neck), (girth * 0.8, hip), (-girth * 0.8, hip))
    coat, trousers = _color(rng, PERSON), _color(rng, PERSON) * rng.uniform(0.6, 1)
    clothes = np.stack((trousers * 0.8, trousers, coat * 0.85, coat))
    sheet.layer(_upright(person, (*legs, arms, trunk)), clothes, PERSON)
    skin = _SKIN[rng.integers(len(_SKIN))]
    tones = np.stack((skin * rng.uniform(0.2, 0.7), skin))
    centers = np.array([(person.right, neck + up * head, person.ahead) for up in (1.1, 0.7)])
    sheet.layer(_discs(centers, (1, 0, 0), head * np.array((1, 0.8))), tones, PERSON)


def _photograph(canvas: Array, rng: Rng) -> Array:
    """The canvas as a camera shows it: rough surfaces, light from one side, blur and noise."""
    height, width = canvas.shape[:2]
    coarse = rng.standard_normal((height // 4 + 1, width // 4 + 1), np.float32)
    fine = 3 * rng.random((height, width), np.float32) - 1.5
    rough = cv2.resize(coarse, (width, height)) + fine
    image = canvas[..., :3] + (rough * _GRAIN[canvas[..., 3]])[..., None]
    warmth, tilt = rng.uniform(-0.12, 0.12), rng.uniform(-0.2, 0.2)
    tint = rng.uniform(0.75, 1.15) * np.array((1 + warmth, 1, 1 - warmth), np.float32)
    image *= tint * np.linspace(1 - tilt, 1 + tilt, width, dtype=np.float32)[:, None]
    blurred = cv2.GaussianBlur(image, (3, 3), rng.uniform(0.4, 0.8))
    noise = (rng.random(image.shape, np.float32) - 0.5) * np.float32(rng.uniform(4, 10))
    return np.asarray(np.clip(blurred + noise, 0, 255), np.uint8)


def _color(rng: Rng, kind: int) -> Floats:
    """A color for something of a class, [3]."""
    colors = _COLORS[kind]
    base = colors[rng.integers(len(colors))]
    return np.asarray(base * rng.uniform(0.85, 1.15) + 6 * rng.standard_normal(3))


def _ground(left: float, right: float, near: float, far: float) -> Floats:
    """A patch of the ground."""
    return np.array(((left, 0, near), (right, 0, near), (right, 0, far), (left, 0, far)), float)


def _box(sheet: _Sheet, corner: Triple, size: Triple) -> Floats:
    """A box's patches in drawing order, [3, 4, 3]: top, the side that may be seen, and front.

    `corner` is the lowest, leftmost, nearest; side and front begin below and run along the ground.
    """
    (left, bottom, near), (wide, tall, long) = corner, size
    right, top, far = left + wide, bottom + tall, near + long
    side = right if right < sheet.eye[0] else left
    roof = ((left, top, near), (right, top, near), (right, top, far), (left, top, far))
    flank = ((side, bottom, near), (side, bottom, far), (side, top, far), (side, top, near))
    front = ((left, bottom, near), (right, bottom, near), (right, top, near), (left, top, near))
    return np.array((roof, flank, front))


def _panes(patch: Floats, columns: int, rows: int, share: tuple[float, float]) -> Floats:
    """Panes on a patch, [columns * rows, 4, 3], column by column; `share` of a cell is pane."""
    edges = patch[[1, 3]] - patch[0]
    return np.asarray(patch[0] + _grid(columns, rows, share) @ edges)


@lru_cache
def _grid(columns: int, rows: int, share: tuple[float, float]) -> Floats:
    """The panes of the unit square, [columns * rows, 4, 2]."""
    cells = np.stack(np.meshgrid(np.arange(columns), np.arange(rows), indexing="ij"), -1)
    corners = 0.5 + 0.5 * np.array(((-1, -1), (1, -1), (1, 1), (-1, 1))) * share
    return (cells.reshape(-1, 1, 2) + corners) / (columns, rows)


def _upright(thing: _Thing, outlines: tuple[tuple[tuple[float, float], ...], ...]) -> Floats:
    """Flat shapes that face the camera, [count, corners, 3]: (right, up) of a thing's foot."""
    across, up = np.moveaxis(np.array(outlines), -1, 0)
    return np.stack((thing.right + across, up, np.full_like(up, thing.ahead)), -1)


def _discs(centers: Floats, along: Triple, radii: Floats) -> Floats:
    """Upright discs, [count, 12, 3], in the plane that holds the direction `along`."""
    circle = _CIRCLE @ np.array((along, (0, 1, 0)))
    return np.asarray(centers[:, None] + radii[:, None, None] * circle)
