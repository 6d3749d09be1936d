"""The upper abdomen of an invented patient, drawn on a fine grid: what `phantoms` scans.

All positions are millimetres from the middle of the trunk, in the patient's frame: x to the left, y to the
back, z up. Arrays are (Z, Y, X). Densities are those of a contrast-enhanced CT in Hounsfield units (HU).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

LABELS = {
    "background": 0,
    "liver": 1,
    "spleen": 2,
    "left_kidney": 3,
    "right_kidney": 4,
    "aorta": 5,
    "lesion": 6,
}

Xyz = tuple[float, float, float]

AIR_HU, LUNG_HU, TABLE_HU, FAT_HU, MUSCLE_HU, BONE_HU = -1000.0, -850.0, -450.0, -100.0, 52.0, 500.0
# The room inside the wall of muscle and ribs, as a depth (see Canvas).
CAVITY = 0.79
# Mean density of each organ, 35 HU or more apart to be told in the noise; the kidneys differ by place alone.
ORGAN_HU = {
    "liver": 110.0,
    "spleen": 145.0,
    "left_kidney": 190.0,
    "right_kidney": 190.0,
    "aorta": 285.0,
    "lesion": 30.0,
}


@dataclass(frozen=True, kw_only=True)
class Ellipsoid:
    """Centre and half axes (x, y, z) in mm; `turn` (radians) turns it about the z, then about the y axis."""

    centre: Xyz
    half: Xyz
    turn: tuple[float, float] = (0.0, 0.0)

    @property
    def axes(self) -> NDArray[np.float64]:
        """Directions of the half axes, 3 x 3, one row (x, y, z) each."""
        (cos_z, cos_y), (sin_z, sin_y) = np.cos(self.turn), np.sin(self.turn)
        about_z = np.array(((cos_z, sin_z, 0), (-sin_z, cos_z, 0), (0, 0, 1)))
        about_y = np.array(((cos_y, 0, -sin_y), (0, 1, 0), (sin_y, 0, cos_y)))
        turned: NDArray[np.float64] = about_y @ about_z
        return turned


# Typical organs of a patient of scale 1. Where two overlap, the one that is drawn later cuts into the other.
LIVER_LOBES = (
    Ellipsoid(centre=(-48, -8, 30), half=(60, 58, 62), turn=(0.1, 0.2)),
    Ellipsoid(centre=(8, -34, 40), half=(52, 26, 30), turn=(0.1, 0.15)),
)
SPLEEN = Ellipsoid(centre=(72, 16, 48), half=(24, 40, 38), turn=(-0.3, 0.2))
LEFT_KIDNEY = Ellipsoid(centre=(58, 36, -32), half=(25, 24, 47), turn=(0.2, -0.15))
RIGHT_KIDNEY = Ellipsoid(centre=(-58, 36, -38), half=(25, 24, 47), turn=(-0.2, 0.15))
STOMACH = Ellipsoid(centre=(46, -28, 38), half=(34, 28, 42), turn=(0.3, 0.3))


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """The picture in the making: per voxel the place in the undeformed patient, density and label.

    `z`, `y`, `x` (mm) and `hu` are float32, `labels` uint8, all (Z, Y, X). `depth` is the distance from the
    trunk's axis: 0 on it, 1 on the skin, float32 (Z, Y, X).
    """

    z: NDArray[np.float32]
    y: NDArray[np.float32]
    x: NDArray[np.float32]
    depth: NDArray[np.float32]
    hu: NDArray[np.float32]
    labels: NDArray[np.uint8]

    @cached_property
    def extents(self) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Per axis (z, y, x): the lowest and the highest position in each plane across it, mm."""
        across = ((1, 2), (0, 2), (0, 1))
        return [(p.min(rest), p.max(rest)) for p, rest in zip((self.z, self.y, self.x), across, strict=True)]

    def paint(
        self, inside: NDArray[np.bool_], hu: float, label: str = "background", *, box: tuple[slice, ...] = ()
    ) -> None:
        """Fill the voxels of `inside`, a mask of the part `box` of the canvas."""
        self.hu[box][inside] = hu
        self.labels[box][inside] = LABELS[label]


def draw_abdomen(
    z_mm: NDArray[np.float64],
    y_mm: NDArray[np.float64],
    x_mm: NDArray[np.float64],
    *,
    rng: np.random.Generator,
    scale: float,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Draw one patient.

    Args:
        z_mm: ascending positions of the voxel centres along the axis, 0 in the middle of the trunk.
        y_mm: the same from front to back.
        x_mm: the same from right to left.
        rng: decides size, place, tilt, deformation and density of everything.
        scale: size of the patient, 1 being 260 x 192 mm around the waist.

    Returns:
        (hu, labels): float32 and uint8, both (Z, Y, X), without blur and noise.
    """
    axes = tuple((axis / scale).astype(np.float32) for axis in (z_mm, y_mm, x_mm))
    grid = np.meshgrid(*axes, indexing="ij", sparse=True)
    z, y, x = (axis + smooth_field(axes, rng=rng, wavelength_mm=150.0) * np.float32(3.5) for axis in grid)
    width, height = 130.0 * rng.uniform(0.97, 1.03), 96.0 * rng.uniform(0.95, 1.03)
    depth = _depth(x / np.float32(width), y / np.float32(height))
    hu = np.full(z.shape, AIR_HU, dtype=np.float32)
    canvas = Canvas(z=z, y=y, x=x, depth=depth, hu=hu, labels=np.zeros(z.shape, dtype=np.uint8))
    _draw_trunk(canvas, rng)
    _draw_bowel(canvas, rng)
    _draw_organs(canvas, rng)
    _draw_spine(canvas, rng)
    return canvas.hu, canvas.labels


def smooth_field(
    axes: tuple[NDArray[np.floating], ...], *, rng: np.random.Generator, wavelength_mm: float
) -> NDArray[np.float32]:
    """Smooth random field of standard deviation 1, float32 (Z, Y, X): a sum of products of three cosines."""
    n_waves = 6
    waves = []
    for axis in axes:
        per_mm = rng.uniform(0.3, 1.0, (n_waves, 1)) * 2 * np.pi / wavelength_mm
        waves.append(np.cos(per_mm * axis + rng.uniform(0, 2 * np.pi, (n_waves, 1))).astype(np.float32))
    z, y, x = waves
    planes = np.einsum("kz,ky->zyk", z, y).reshape(-1, n_waves)
    # The mean square of a product of three cosines is 1/8.
    field: NDArray[np.float32] = planes @ x * np.float32(np.sqrt(8.0 / n_waves))
    return field.reshape(z.shape[1], y.shape[1], x.shape[1])


def _depth(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
    """0 at the centre, 1 on a curve between circle and square of half width 1 (Fernandez-Guasti, 1992)."""
    squareness, xx, yy = np.float32(0.35), x * x, y * y
    total = xx + yy
    depth: NDArray[np.float32] = np.sqrt((total + np.sqrt(total * total - 4 * squareness * xx * yy)) / 2)
    return depth


def _xyz(values: NDArray[np.float64]) -> Xyz:
    x, y, z = values.tolist()
    return x, y, z


def _varied(organ: Ellipsoid, rng: np.random.Generator) -> Ellipsoid:
    return Ellipsoid(
        centre=_xyz(np.array(organ.centre) + rng.uniform(-4, 4, size=3)),
        half=_xyz(np.array(organ.half) * rng.uniform(0.93, 1.07, size=3)),
        turn=(organ.turn[0] + rng.uniform(-0.12, 0.12), organ.turn[1] + rng.uniform(-0.12, 0.12)),
    )


def _box(canvas: Canvas, organ: Ellipsoid) -> tuple[slice, ...]:
    """The part of the canvas that can hold `organ`, 5 mm around it: the other voxels need no arithmetic."""
    reach = np.sqrt(((organ.axes * np.array(organ.half)[:, None]) ** 2).sum(axis=0)) + 5.0
    box = []
    for (lowest, highest), centre, mm in zip(canvas.extents, organ.centre[::-1], reach[::-1], strict=True):
        near = np.flatnonzero((highest > centre - mm) & (lowest < centre + mm))
        box.append(slice(int(near[0]), int(near[-1]) + 1) if near.size else slice(0, 0))
    return tuple(box)


def _radius(canvas: Canvas, organ: Ellipsoid, box: tuple[slice, ...]) -> NDArray[np.float32]:
    """Distance from the centre, 1 on the surface, float32, shape of `box`."""
    x, y, z = (axis[box] - np.float32(c) for axis, c in zip((canvas.x, canvas.y, canvas.z), organ.centre, strict=True))
    rows = (organ.axes / np.array(organ.half)[:, None]).astype(np.float32)
    radius: NDArray[np.float32] = np.sqrt(sum((row[0] * x + row[1] * y + row[2] * z) ** 2 for row in rows))
    return radius


def _draw_trunk(canvas: Canvas, rng: np.random.Generator) -> None:
    """Fat under the skin, the wall of muscle with ribs in it, fat inside, lungs above the diaphragm."""
    z, y, depth = canvas.z, canvas.y, canvas.depth
    fat = FAT_HU + rng.uniform(-8, 8)
    canvas.paint(depth < 1, fat)
    wall = depth < 0.88 + rng.uniform(-0.02, 0.02)
    canvas.paint(wall, MUSCLE_HU + rng.uniform(-5, 5))
    # Ribs run down towards the front, one every 28 mm.
    along_ribs = z - 0.45 * y
    rib = ((along_ribs + rng.uniform(0, 28)) % 28 < 11) & (along_ribs > -45)
    canvas.paint(wall & rib, BONE_HU)
    canvas.paint(depth < CAVITY, fat)
    canvas.paint((depth < CAVITY) & (z > 78 - 45 * depth * depth), LUNG_HU + rng.uniform(-20, 20))
    # The table that the patient lies on.
    canvas.paint((np.abs(y - 108) < 4) & (depth > 1), TABLE_HU)


def _draw_bowel(canvas: Canvas, rng: np.random.Generator) -> None:
    """A stomach with gas in front, and loops of bowel below the liver, some of them with gas."""
    stomach = _varied(STOMACH, rng)
    middles, halves = (
        rng.uniform((-72, -50, -105), (72, 0, -40), size=(16, 3)),
        rng.uniform(11, 20, size=(16, 3)),
    )
    loops = [Ellipsoid(centre=_xyz(middle), half=_xyz(half)) for middle, half in zip(middles, halves, strict=True)]
    for hollow in (*loops, stomach):
        box = _box(canvas, hollow)
        radius, cavity = _radius(canvas, hollow, box), canvas.depth[box] < CAVITY
        canvas.paint((radius < 1) & cavity, rng.uniform(10, 40), box=box)
        if hollow is stomach or rng.random() < 0.3:
            level = hollow.centre[1] - hollow.half[1] * rng.uniform(0.2, 0.6)
            canvas.paint((radius < 0.8) & cavity & (canvas.y[box] < level), AIR_HU, box=box)


def _draw_organs(canvas: Canvas, rng: np.random.Generator) -> None:
    """Liver with its lesion; in a thin layer of fat, the spleen and the kidneys with their hilum."""
    lobes = [_varied(lobe, rng) for lobe in LIVER_LOBES]
    _draw_organ(canvas, "liver", lobes, rng=rng)
    place = _xyz(np.array(lobes[0].centre) + rng.uniform(-14, 14, size=3))
    _draw_organ(canvas, "lesion", [Ellipsoid(centre=place, half=_xyz(rng.uniform(20.5, 24.0, size=3)))], rng=rng)
    _draw_organ(canvas, "spleen", [_varied(SPLEEN, rng)], rng=rng, capsule_mm=3.0)
    for name, typical in (("left_kidney", LEFT_KIDNEY), ("right_kidney", RIGHT_KIDNEY)):
        kidney = _varied(typical, rng)
        _draw_organ(canvas, name, [kidney], rng=rng, capsule_mm=4.0)
        x, y, z = kidney.centre
        hilum = Ellipsoid(centre=(x - np.sign(x) * 22.0, y - 4.0, z), half=(11.0, 9.0, 15.0))
        box = _box(canvas, hilum)
        canvas.paint(_radius(canvas, hilum, box) < 1, FAT_HU, box=box)


def _draw_organ(
    canvas: Canvas, name: str, parts: list[Ellipsoid], *, rng: np.random.Generator, capsule_mm: float = 0.0
) -> None:
    hu = rng.normal(ORGAN_HU[name], 4.0)
    for part in parts:
        box = _box(canvas, part)
        radius, cavity = _radius(canvas, part, box), canvas.depth[box] < CAVITY
        if capsule_mm:
            canvas.paint((radius < 1 + capsule_mm / min(part.half)) & cavity, FAT_HU, box=box)
        canvas.paint((radius < 1) & cavity, hu, name, box=box)


def _draw_spine(canvas: Canvas, rng: np.random.Generator) -> None:
    """Vertebrae with discs, canal and processes, the muscles beside them, vena cava and aorta in front."""
    box = _box(canvas, Ellipsoid(centre=(0, 58, 0), half=(50, 58, 1000)))
    z, y, x, depth = canvas.z[box], canvas.y[box], canvas.x[box], canvas.depth[box]
    muscle = MUSCLE_HU + rng.uniform(-5, 5)
    canvas.paint(((x + 2) / 33) ** 2 + ((y - 28) / 19) ** 2 < 1, FAT_HU, box=box)
    psoas_mm = 15 * np.clip((10 - z) / 60, 0, 1)
    canvas.paint((np.hypot(np.abs(x) - 32, y - 66) < 14) & (depth < 0.86), muscle, box=box)
    canvas.paint((np.hypot(np.abs(x) - 30, y - 52) < psoas_mm) & (canvas.labels[box] == 0), muscle, box=box)
    above_disc = (z + rng.uniform(0, 32)) % 32
    vertebra = (x / 21) ** 2 + ((y - 55) / 16) ** 2 < 1
    arch = ((x / 17) ** 2 + ((y - 75) / 11) ** 2 < 1) | ((np.abs(x) < 4) & (y > 75) & (depth < 0.95))
    canvas.paint(vertebra, MUSCLE_HU + 30, box=box)
    bone = (vertebra & (above_disc > 7)) | (arch & (above_disc > 9))
    canvas.paint(bone, BONE_HU + rng.uniform(-30, 30), box=box)
    canvas.paint((x / 9) ** 2 + ((y - 75) / 7) ** 2 < 1, 25.0, box=box)
    x = x - np.float32(rng.uniform(-3, 3)) * np.sin(z / 45)
    canvas.paint(np.hypot(x + 16, y - 27) < rng.uniform(9, 11), MUSCLE_HU + 10, box=box)
    aorta = np.hypot(x - rng.uniform(9, 13), y - rng.uniform(21, 24)) < rng.uniform(12.5, 14.5)
    canvas.paint(aorta, rng.normal(ORGAN_HU["aorta"], 8), "aorta", box=box)
