"""Rendered actions: a textured shape moves over a photograph that the camera pans across.

Twelve actions in six pairs, each the other played backwards, so that no single frame tells the
label and only the order of frames does. Everything is drawn in NumPy, the same on every machine.

Lengths are in units: the action happens in a square of 64, whatever its pixels are. x points
right and y down, both from the centre, so that an angle that grows turns clockwise.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ffn_edge.errors import DataError
from ffn_edge.media.images import read_image
from ffn_edge.media.picture import Box, crop_resize

# An action at an even place, played backwards, is the one after it.
ACTIONS = (
    *("left", "right", "up", "down", "approach", "recede"),
    *("clockwise", "counter-clockwise", "together", "apart", "appear", "disappear"),
)
FRAMES = 48
FPS = 24.0

# They come with scikit-image's wheel; nothing is downloaded.
PHOTOGRAPHS = (
    *("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "coffee.png"),
    *("coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png"),
    *("motorcycle_left.png", "retina.jpg", "rocket.jpg"),
)

# How far the camera may stray from the middle of the background.
MARGIN = 6.0

Floats = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Canvas:
    """A picture of `width` x `height` pixels at `scale` pixels a unit."""

    width: int
    height: int
    scale: float


@dataclass(frozen=True, slots=True)
class Share:
    """The part of each photograph that may be shown, from `left` to `right`, 0..1 of its width."""

    left: float
    right: float


@dataclass(frozen=True, slots=True)
class Pose:
    """How a sprite stands in one frame."""

    x: float
    y: float
    radius: float
    angle: float
    opacity: float = 1.0


Poses = Callable[[float], tuple[Pose, ...]]


class Scene:
    """A photograph that a camera pans across, with sprites that rest and others that may act.

    Attributes:
        poses: how the actors stand when a given part, 0..1, of their action is done.
    """

    def __init__(
        self,
        action: str,
        share: Share,
        canvas: Canvas,
        rng: np.random.Generator,
        camera_path: Callable[[np.random.Generator], Floats],
    ) -> None:
        """Draw what stays. `camera_path` gives (y, x) from the middle for each frame, (F, 2)."""
        side = round((max(canvas.width, canvas.height) / canvas.scale + 2 * MARGIN) * canvas.scale)
        photographs = [PHOTOGRAPHS[i] for i in rng.permutation(len(PHOTOGRAPHS))[:4]]
        background = _texture(photographs[0], share, side, canvas.scale, rng)
        background = _toned(background, rng.uniform(90, 160), rng.uniform(0.6, 0.9))
        sprites = [_sprite(name, share, background, canvas.scale, rng) for name in photographs[1:]]

        self.poses = action_poses(action, rng)
        actors, others = np.split(np.asarray(sprites, object), [len(self.poses(0.0))])
        for other in others[: rng.integers(1, len(others) + 1)]:
            _put(other, _resting(rng), background, Canvas(side, side, canvas.scale))
        self._canvas, self._rng, self._actors, self._background = canvas, rng, actors, background
        self._camera = camera_path(rng) * canvas.scale
        noise = rng.normal(0, rng.uniform(1, 4), (canvas.height, canvas.width, 3))
        self._noise = noise.astype(np.float32)

    def frame(self, t: int, poses: tuple[Pose, ...]) -> Image:
        """Return what the camera sees at frame `t`: uint8 (height, width, 3), BGR."""
        picture = _window(self._background, self._camera[t], self._canvas)
        for actor, pose in zip(self._actors, poses, strict=True):
            _put(actor, pose, picture, self._canvas)
        shift = self._rng.integers(self._canvas.height, size=2)
        picture += np.roll(self._noise, shift, axis=(0, 1))
        image: Image = np.clip(picture[..., ::-1] + 0.5, 0, 255).astype(np.uint8)
        return image


def render_action(
    action: str, share: Share, canvas: Canvas, rng: np.random.Generator
) -> Iterator[Image]:
    """Yield the 48 frames of one clip: uint8 (height, width, 3), BGR.

    Args:
        action: one of `ACTIONS`.
        share: the part of the photographs to draw with.
        canvas: the size of a frame; the action fits the square of 64 units at its centre.
        rng: decides everything else.

    Raises:
        DataError: scikit-image is not installed, or lacks a photograph.
    """
    scene = Scene(action, share, canvas, rng, _camera_path)
    length = action_frames(rng)
    start = rng.uniform(0, FRAMES - 1 - length)
    for t in range(FRAMES):
        yield scene.frame(t, scene.poses(_ease((t - start) / length)))


def render_scene(
    action: str,
    moves: Sequence[tuple[float, float]],
    frames: int,
    share: Share,
    canvas: Canvas,
    rng: np.random.Generator,
    *,
    sway: bool = False,
) -> Iterator[Image]:
    """Yield a scene of any length: an action, then it backwards, and so on; rest before and after.

    Args:
        action: one of `ACTIONS`.
        moves: when each begins and how long it takes, in frames; they do not overlap. A part of
            one may lie before or after the scene.
        frames: of the scene.
        share: see `render_action`, as for all else.
        canvas: the same.
        rng: the same.
        sway: the actors sway a little, to and fro, which is none of the actions.
    """
    scene = Scene(action, share, canvas, rng, functools.partial(_wandering_path, frames))
    swings = rng.uniform(-1, 1, 3) * (5, 5, 0.15)  # x, y and angle: far less than a turn
    speeds = rng.uniform(3, 7, 3) / FPS  # radians a frame: a swing takes 0.9 to 2.1 s
    for t in range(frames):
        done = sum(
            (-1) ** k * _ease((t - start) / length) for k, (start, length) in enumerate(moves)
        )
        poses = scene.poses(done)
        if sway:
            x, y, angle = swings * np.sin(speeds * t)
            poses = tuple(
                replace(pose, x=pose.x + x, y=pose.y + y, angle=pose.angle + angle)
                for pose in poses
            )
        yield scene.frame(t, poses)


def action_frames(rng: np.random.Generator) -> float:
    """Return how many frames an action takes."""
    return rng.uniform(0.30, 0.65) * FRAMES


def opposite(action: str) -> str:
    """Return the action that is this one played backwards."""
    return ACTIONS[ACTIONS.index(action) ^ 1]


# --- motion -------------------------------------------------------------------------------------


def action_poses(action: str, rng: np.random.Generator) -> Poses:
    """Return how the actors stand when a given part, 0..1, of the action is done."""
    pair, backwards = divmod(ACTIONS.index(action), 2)
    poses = _POSES[pair](rng)
    return (lambda progress: poses(1 - progress)) if backwards else poses


def _travel(rng: np.random.Generator, axis: float) -> Poses:
    """Cross the middle, against `axis` (radians)."""
    way = rng.uniform(26, 46)
    tilt = axis + rng.uniform(-0.15, 0.15)
    aside, radius, angle = rng.uniform(-14, 14), rng.uniform(9, 15), rng.uniform(0, math.tau)

    def poses(progress: float) -> tuple[Pose, ...]:
        along = way * (0.5 - progress)
        x = along * math.cos(tilt) - aside * math.sin(axis)
        y = along * math.sin(tilt) + aside * math.cos(axis)
        return (Pose(x, y, radius, angle),)

    return poses


def _grow(rng: np.random.Generator) -> Poses:
    rest, ratio = _resting(rng, 12), rng.uniform(2.0, 3.2)
    return lambda progress: (
        Pose(rest.x, rest.y, rest.radius * ratio ** (progress - 0.5), rest.angle),
    )


def _turn(rng: np.random.Generator) -> Poses:
    rest, turn = _resting(rng, 12), math.radians(rng.uniform(100, 170))
    radius = rest.radius + 2
    return lambda progress: (Pose(rest.x, rest.y, radius, rest.angle + turn * (progress - 0.5)),)


def _meet(rng: np.random.Generator) -> Poses:
    """Two sprites, from far apart to touching, along any line."""
    rests = _resting(rng, 6), _resting(rng, 6)
    axis, far = rng.uniform(0, math.tau), rng.uniform(20, 25)
    radius = rng.uniform(7, 10)
    near = rng.uniform(0.6, 1.0) * radius

    def poses(progress: float) -> tuple[Pose, ...]:
        reach = far + (near - far) * progress
        x, y = reach * math.cos(axis), reach * math.sin(axis)
        return tuple(
            Pose(rests[0].x + side * x, rests[0].y + side * y, radius, rest.angle)
            for side, rest in zip((-1, 1), rests, strict=True)
        )

    return poses


def _fade(rng: np.random.Generator) -> Poses:
    rest = _resting(rng)
    return lambda progress: (Pose(rest.x, rest.y, rest.radius, rest.angle, opacity=progress),)


# One a pair of actions, played forwards for the first of the pair.
_POSES: tuple[Callable[[np.random.Generator], Poses], ...] = (
    functools.partial(_travel, axis=0.0),
    functools.partial(_travel, axis=math.pi / 2),
    _grow,
    _turn,
    _meet,
    _fade,
)


def _resting(rng: np.random.Generator, reach: float = 20) -> Pose:
    """Somewhere within `reach` of the centre, turned anyhow, 18 to 30 units across."""
    x, y = rng.uniform(-reach, reach, size=2)
    return Pose(x, y, rng.uniform(9, 15), rng.uniform(0, math.tau))


def _ease(progress: float) -> float:
    """Start and stop gently: the same forwards and backwards."""
    progress = min(max(progress, 0.0), 1.0)
    return progress * progress * (3 - 2 * progress)


def _camera_path(rng: np.random.Generator) -> Floats:
    """Return a slow pan with a shaking hand: float32 (48, 2), (y, x) from the middle."""
    pan = np.linspace(-0.5, 0.5, FRAMES)[:, None] * rng.uniform(-6, 6, size=2)
    shake = rng.normal(0, 0.5, size=(FRAMES + 2, 2))
    shake = (shake[:-2] + 2 * shake[1:-1] + shake[2:]) / 4
    path: Floats = np.clip(pan + shake, 1 - MARGIN, MARGIN - 1).astype(np.float32)
    return path


def _wandering_path(frames: int, rng: np.random.Generator) -> Floats:
    """Return a camera that drifts to and fro for ever, with a shaking hand: as `_camera_path`."""
    swings, speeds = rng.uniform(-3, 3, size=2), rng.uniform(0.25, 0.75, size=2) / FPS
    drift = swings * np.sin(np.arange(frames)[:, None] * speeds + rng.uniform(0, math.tau, size=2))
    shake = rng.normal(0, 0.5, size=(frames + 2, 2))
    shake = (shake[:-2] + 2 * shake[1:-1] + shake[2:]) / 4
    path: Floats = np.clip(drift + shake, 1 - MARGIN, MARGIN - 1).astype(np.float32)
    return path


# --- pictures -----------------------------------------------------------------------------------


class Sprite:
    """A convex, textured shape of radius 1 whose front can be told from its back.

    Attributes:
        texture: float32 (S, S, 3), RGB 0..255, over the square from -1 to 1.
        edges: float32 (E, 3), rows (a, b, c): inside is a·u + b·v <= c. None for an ellipse.
        flatness: height over width.
    """

    def __init__(self, texture: Floats, rng: np.random.Generator) -> None:
        shade = np.linspace(0.5, 1.4, texture.shape[1], dtype=np.float32)
        self.texture = np.clip(texture * shade[:, None], 0, 255)
        self.flatness = rng.uniform(0.5, 0.85)
        match rng.integers(3):
            case 0:  # ellipse
                self.edges = np.empty((0, 3), np.float32)
            case 1:  # rectangle
                corner = math.atan(self.flatness)
                self.edges = _edges([corner, math.pi - corner, math.pi + corner, -corner])
            case _:  # kite
                wing = rng.uniform(1.9, 2.4)
                self.edges = _edges([0, wing, math.pi, -wing])

    def draw(self, pose: Pose, canvas: Canvas) -> tuple[slice, slice, Floats, Floats]:
        """Return rows, columns, colours (h, w, 3) and opacity (h, w, 1) of what is on `canvas`."""
        centre_x = canvas.width / 2 + pose.x * canvas.scale
        centre_y = canvas.height / 2 + pose.y * canvas.scale
        radius = pose.radius * canvas.scale
        rows = _span(centre_y, radius, canvas.height)
        columns = _span(centre_x, radius, canvas.width)
        y = ((np.arange(rows.start, rows.stop) + (0.5 - centre_y)) / radius).astype(np.float32)
        x = ((np.arange(columns.start, columns.stop) + (0.5 - centre_x)) / radius).astype(
            np.float32
        )
        cos, sin = math.cos(pose.angle), math.sin(pose.angle)
        u = cos * x + sin * y[:, None]  # (h, w), in the sprite's own axes
        v = cos * y[:, None] - sin * x
        if len(self.edges):
            depth = functools.reduce(np.minimum, (c - a * u - b * v for a, b, c in self.edges))
        else:
            depth = (1 - np.hypot(u, v / self.flatness)) * self.flatness
        # An edge is one pixel wide.
        opacity = np.clip(depth * radius + 0.5, 0, 1)[..., None] * np.float32(pose.opacity)
        return rows, columns, _bilinear(self.texture, u, v), opacity


def _put(sprite: Sprite, pose: Pose, picture: Floats, canvas: Canvas) -> None:
    """Draw `sprite` into `picture`, float32 (H, W, 3)."""
    rows, columns, colours, opacity = sprite.draw(pose, canvas)
    picture[rows, columns] += (colours - picture[rows, columns]) * opacity


def _sprite(
    photograph: str, share: Share, background: Floats, scale: float, rng: np.random.Generator
) -> Sprite:
    """Cut a sprite that stands out from the background."""
    texture = _texture(photograph, share, round(30 * scale), scale, rng)
    under = float(background.mean())
    tone = under + rng.uniform(50, 80) * (1 if under < 125 else -1)
    tint = rng.uniform(0.75, 1.25, size=3).astype(np.float32)
    return Sprite(_toned(texture, tone, rng.uniform(0.5, 0.9)) * tint, rng)


def _texture(
    photograph: str, share: Share, side: int, scale: float, rng: np.random.Generator
) -> Floats:
    """Cut a random square out of `share` of a photograph: float32 (side, side, 3), RGB."""
    image = _photograph(photograph)
    left, right = (int(image.shape[1] * edge) for edge in (share.left, share.right))
    most = min(image.shape[0], right - left)
    length = round(rng.uniform(0.6, 1.0) * min(most, 3 * side / scale))
    top = int(rng.integers(image.shape[0] - length + 1))
    left = left + int(rng.integers(right - left - length + 1))
    return crop_resize(image, Box(top, left, length, length), side).astype(np.float32)


def _toned(texture: Floats, mean: float, contrast: float) -> Floats:
    toned: Floats = (texture - texture.mean()) * np.float32(contrast) + np.float32(mean)
    return toned


@functools.lru_cache(maxsize=len(PHOTOGRAPHS))
def _photograph(name: str) -> Image:
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise DataError(
            "the photographs that the clips are drawn with come with scikit-image, which is not "
            "installed here",
            'pip install "ffn-edge[demo]".',
        )
    path = Path(package.origin).parent / "data" / name
    if not path.is_file():
        raise DataError(f"this scikit-image lacks {path}", "pip install --upgrade scikit-image.")
    return read_image(path)


def _window(background: Floats, offset: Floats, canvas: Canvas) -> Floats:
    """Return what the camera sees, bilinear: float32 (height, width, 3)."""
    height, width = canvas.height, canvas.width
    y = (background.shape[0] - height) / 2 + float(offset[0])
    x = (background.shape[1] - width) / 2 + float(offset[1])
    top, left = int(y), int(x)
    wide = background[top : top + height + 1, left : left + width + 1]
    y, x = y - top, x - left
    tall: Floats = wide[:, :-1] * np.float32(1 - x) + wide[:, 1:] * np.float32(x)
    seen: Floats = tall[:-1] * np.float32(1 - y) + tall[1:] * np.float32(y)
    return seen


def _edges(angles: list[float]) -> Floats:
    """Return the edges of the polygon whose corners lie on the unit circle, in turn."""
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # (E, 2)
    along = np.roll(corners, -1, axis=0) - corners
    normals = np.stack([along[:, 1], -along[:, 0]], axis=1)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return np.column_stack([normals, (normals * corners).sum(axis=1)]).astype(np.float32)


def _span(centre: float, radius: float, length: int) -> slice:
    """Return the pixels within `radius` of `centre`, cut to 0..length."""
    start = min(max(math.floor(centre - radius) - 1, 0), length)
    return slice(start, max(min(math.ceil(centre + radius) + 1, length), start))


def _bilinear(texture: Floats, u: Floats, v: Floats) -> Floats:
    """Return the texture at (u, v), each -1..1: float32 (h, w, 3)."""
    side = texture.shape[0]
    x = np.clip((u + 1) * ((side - 1) / 2), 0, side - 1.001)
    y = np.clip((v + 1) * ((side - 1) / 2), 0, side - 1.001)
    left, top = x.astype(np.int32), y.astype(np.int32)
    x, y = (x - left)[..., None], (y - top)[..., None]
    pixels = texture.reshape(-1, 3)
    corner = top * side + left
    upper = pixels[corner] * (1 - x) + pixels[corner + 1] * x
    lower = pixels[corner + side] * (1 - x) + pixels[corner + side + 1] * x
    colours: Floats = upper * (1 - y) + lower * y
    return colours
