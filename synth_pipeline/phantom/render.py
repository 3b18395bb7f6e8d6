"""A small renderer for phantoms: numpy for the mesh, Pillow for what is drawn as areas.

Triangle numbers are drawn by Pillow into an index image, far ones first; then light and colour are
interpolated for all pixels of the face at once. That is several times faster than visiting each
triangle from Python.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from synth_pipeline.phantom import mesh as m
from synth_pipeline.phantom.appearance import BACKGROUNDS, HAIRS, SKINS, Appearance

#: Each picture is drawn this many times larger and reduced, which smooths its edges.
_SUPERSAMPLING = 2
_CAMERA_CM = 48.0
# The ring of the forehead just inside the oval, temple to temple; hairlines lie between the two.
_UPPER_OVAL = (234, 127, 162, 21, 54, 103, 67, 109, 10, 338, 297, 332, 284, 251, 389, 356, 454)
_FOREHEAD = (234, 34, 139, 71, 68, 104, 69, 108, 151, 337, 299, 333, 298, 301, 368, 264, 454)
#: How far each hair style comes down the forehead (share of the way to the inner ring).
_HAIRLINE = {"short": 0.25, "fringe": 1.15, "long": 0.45, "thin": -0.1}


def rotation(pose_deg: tuple[float, float, float]) -> np.ndarray:
    """The (3, 3) rotation for yaw, pitch and roll in degrees, applied in that order."""
    yaw, pitch, roll = np.radians(pose_deg)
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    cr, sr = np.cos(roll), np.sin(roll)
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    about_z = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


@dataclass(frozen=True)
class _View:
    """The face as the camera sees it.

    Attributes:
        points_px: (468, 2) in the enlarged picture, x right, y down.
        shade: (468,) light that reaches each vertex, about 0.3 to 1.1.
        width_px, height_px: of the face's oval.
    """

    points_px: np.ndarray
    depth: np.ndarray
    shade: np.ndarray
    centre_px: np.ndarray
    width_px: float
    height_px: float


def render(
    vertices: np.ndarray, triangles: np.ndarray, look: Appearance, size_px: int, seed: int
) -> Image.Image:
    """Draw one phantom.

    Args:
        vertices: (468, 3) float64 centimetres, the person's shape.
        triangles: (898, 3) int64.
        look: the photo's circumstances.
        size_px: width and height of the picture.
        seed: of the camera's noise and the strands of hair.

    Returns:
        An RGB picture; the same arguments give the same pixels.
    """
    rng = np.random.default_rng(seed)
    size = size_px * _SUPERSAMPLING
    view = _project(_with_expression(vertices, look), triangles, look, size)
    canvas = _background(look, size)
    _draw_behind(canvas, view, look)
    face = _shade_face(canvas, view, triangles, look)
    _draw_features(face, view, look)
    _draw_hair(face, view, look, rng)
    # A triangle filter over two output pixels: as soft as a lens, and cheaper than a blur.
    image = face.resize((size_px, size_px), Image.Resampling.BILINEAR)
    grain = rng.standard_normal((size_px, size_px, 1), np.float32) * np.float32(look.noise)
    pixels = np.asarray(image, np.float32) + grain
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _with_expression(vertices: np.ndarray, look: Appearance) -> np.ndarray:
    moved = vertices.copy()
    for corner in (61, 291):
        distance = (vertices - vertices[corner]) / (1.3, 1.0, 3.0)
        weight = np.exp(-0.5 * (distance**2).sum(1))
        moved[:, 1] += weight * 0.42 * look.smile
        moved[:, 0] += weight * np.sign(vertices[corner, 0]) * 0.22 * look.smile
    # The canonical mouth stands a little open: close it, then open it as far as it is wanted.
    upper, lower = vertices[13], vertices[14]
    gap = (upper - lower)[1]
    for lip, direction in ((upper, -1), (lower, 1)):
        ring = vertices[list(m.LIPS_OUTER) + list(m.LIPS_INNER)]
        weight = np.zeros(len(vertices))
        ids = list(m.LIPS_OUTER) + list(m.LIPS_INNER)
        weight[ids] = np.exp(-0.5 * (((ring - lip) / (1.8, 0.35, 3.0)) ** 2).sum(1))
        moved[:, 1] += direction * weight * gap * 0.5 * (1 - 1.2 * look.mouth_open)
    return moved


def _project(vertices: np.ndarray, triangles: np.ndarray, look: Appearance, size: int) -> _View:
    world = vertices @ rotation(look.pose_deg).T
    focal = size * 2.0 * look.zoom
    depth = _CAMERA_CM - world[:, 2]
    x = size * (0.5 + look.shift[0]) + world[:, 0] / depth * focal
    y = size * (0.55 + look.shift[1]) - (world[:, 1] + 0.3) / depth * focal
    points = np.stack([x, y], 1)
    corners = world[triangles]
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(world)
    np.add.at(normals, triangles.ravel(), np.repeat(flat, 3, axis=0))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9
    if normals[m.NOSE_TIP, 2] < 0:
        normals = -normals
    light = np.asarray(look.light) / np.linalg.norm(look.light)
    diffuse = (normals @ light).clip(0, 1)
    halfway = light + (0, 0, 1)
    shine = (normals @ (halfway / np.linalg.norm(halfway))).clip(0, 1) ** 24
    # Skin turns darker where it turns away from the camera; that rounds the face off.
    rim = 0.78 + 0.22 * normals[:, 2].clip(0, 1) ** 0.7
    shade = (look.ambient + (1.08 - look.ambient) * diffuse) * rim + 0.10 * shine
    oval = points[list(m.OVAL)]
    return _View(
        points, depth, shade, oval.mean(0), float(np.ptp(oval[:, 0])), float(np.ptp(oval[:, 1]))
    )


def _background(look: Appearance, size: int) -> Image.Image:
    """A wall that gets darker downwards; drawn small and enlarged, since it is smooth."""
    base = np.asarray(BACKGROUNDS[look.background])
    small = size // 8
    ramp = np.linspace(1.08, 0.86, small)[:, None] + np.linspace(-0.06, 0.06, small) * look.tint
    pixels = (base * ramp[..., None]).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)


def _tone(colour: tuple[float, float, float], factor: float) -> tuple[int, int, int]:
    red, green, blue = (int(min(255, max(0, value * factor))) for value in colour)
    return red, green, blue


def _draw_behind(canvas: Image.Image, view: _View, look: Appearance) -> None:
    """Shoulders, neck, the back of the hair, and the ears."""
    pen = ImageDraw.Draw(canvas)
    (x, y), w, h = view.centre_px, view.width_px, view.height_px
    skin, hair = SKINS[look.skin], HAIRS[look.hair]
    if look.hair_style == "long":
        pen.ellipse([x - w * 0.68, y - h * 0.72, x + w * 0.68, y + h * 0.95], _tone(hair, 0.72))
    pen.ellipse([x - w * 1.15, y + h * 0.74, x + w * 1.15, y + h * 2.2], _tone(look.clothes, 0.9))
    pen.polygon(
        [
            (x - w * 0.27, y + h * 0.2), (x + w * 0.27, y + h * 0.2),
            (x + w * 0.33, y + h * 0.86), (x, y + h * 0.97), (x - w * 0.33, y + h * 0.86),
        ],
        _tone(skin, 0.70),
    )  # fmt: skip
    # The head behind the face: what the mesh, which is a mask, leaves out.
    skull = _tone(skin, 0.82) if look.hair_style == "thin" else _tone(hair, 0.8)
    pen.ellipse([x - w * 0.53, y - h * 0.66, x + w * 0.53, y + h * 0.30], skull)
    for ear, outwards in ((234, -1), (454, 1)):
        ex, ey = view.points_px[ear]
        ex += outwards * w * 0.015
        pen.ellipse(
            [ex - w * 0.065, ey - h * 0.09, ex + w * 0.065, ey + h * 0.12], _tone(skin, 0.88)
        )
        pen.ellipse([ex - w * 0.03, ey - h * 0.05, ex + w * 0.03, ey + h * 0.07], _tone(skin, 0.72))


def _shade_face(
    canvas: Image.Image, view: _View, triangles: np.ndarray, look: Appearance
) -> Image.Image:
    """Draw the mesh with light and colour interpolated between its vertices."""
    size = canvas.width
    corners = view.points_px[triangles]
    order = np.argsort(-view.depth[triangles].mean(1), kind="stable")
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    facing = np.sign(np.median(area))
    index = Image.new("I", (size, size), 0)
    pen = ImageDraw.Draw(index)
    for number in order[(area * facing)[order] > 0]:
        pen.polygon(corners[number].ravel().tolist(), int(number) + 1)
    # The face's rectangle only, in single precision: this is the renderer's largest cost.
    left, top, right, bottom = index.getbbox() or (0, 0, 1, 1)
    numbers = np.asarray(index)[top:bottom, left:right]
    rows, columns = np.nonzero(numbers)
    triangle = numbers[rows, columns] - 1
    # Barycentric coordinates: an affine function of the place, one for each triangle.
    corner = (corners[:, 0] - (left, top)).astype(np.float32)
    # A triangle seen edge-on has no area and is not in the index image.
    inverse = 1 / np.where(area == 0, 1, area)[:, None]
    first, second = (first * inverse).astype(np.float32), (second * inverse).astype(np.float32)
    dx = columns.astype(np.float32) - corner[triangle, 0]
    dy = rows.astype(np.float32) - corner[triangle, 1]
    b = (dx * second[triangle, 1] - dy * second[triangle, 0]).clip(-0.2, 1.2)
    c = (dy * first[triangle, 0] - dx * first[triangle, 1]).clip(-0.2, 1.2)
    colours = _vertex_colours(view, look).astype(np.float32)[triangles]
    pixels = colours[triangle, 0]
    pixels += b[:, None] * (colours[:, 1] - colours[:, 0])[triangle]
    pixels += c[:, None] * (colours[:, 2] - colours[:, 0])[triangle]
    picture = np.array(canvas)
    picture[top:bottom, left:right][rows, columns] = pixels.clip(0, 255)
    return Image.fromarray(picture)


def _vertex_colours(view: _View, look: Appearance) -> np.ndarray:
    """(468, 3) colour of each vertex in its light; cheeks and nose are redder."""
    skin = np.asarray(SKINS[look.skin])
    blush = np.zeros(len(view.shade))
    for spot, strength in ((m.CHEEKS[0], 1.0), (m.CHEEKS[1], 1.0), (m.NOSE_TIP, 0.6)):
        distance = (view.points_px - view.points_px[spot]) / (view.width_px * 0.13)
        blush += strength * np.exp(-0.5 * (distance**2).sum(1))
    tint = skin * (1.0, 0.80, 0.80)
    colour = skin + (tint - skin) * ((0.72 - 0.02 * look.age_years) * blush)[:, None]
    return colour * view.shade[:, None]


def _draw_features(face: Image.Image, view: _View, look: Appearance) -> None:
    """Lips, nostrils, brows and eyes, each in the light of its place."""
    points, w = view.points_px, view.width_px
    skin, hair = SKINS[look.skin], HAIRS[look.hair]
    layer = Image.new("RGBA", face.size, (0, 0, 0, 0))
    pen = ImageDraw.Draw(layer)

    def ring(ids: tuple[int, ...]) -> list[tuple[float, float]]:
        return [(float(px), float(py)) for px, py in points[list(ids)]]

    lips = (skin[0] * 0.88, skin[1] * 0.62, skin[2] * 0.64)
    light = float(view.shade[list(m.LIPS_OUTER)].mean())
    pen.polygon(ring(m.LIPS_OUTER), (*_tone(lips, light), 215))
    inner = points[list(m.LIPS_INNER)]
    pen.polygon(ring(m.LIPS_INNER), (*_tone((88, 36, 36), light), 255))
    seam = [tuple(q) for q in inner[[0, *range(19, 10, -1), 10]]]
    pen.line(seam, (*_tone(lips, 0.45), 255), width=max(1, round(w * 0.010)), joint="curve")
    for nostril in m.NOSTRILS:
        nx, ny = points[nostril]
        nx += np.sign(nx - points[m.NOSE_BASE][0]) * w * 0.018
        pen.ellipse(
            [nx - w * 0.026, ny - w * 0.012, nx + w * 0.026, ny + w * 0.014],
            (*_tone(skin, 0.40), 190),
        )
    # Brows grow darker and cheeks paler with the years.
    brow_alpha = round(130 + 6 * look.age_years)
    for brow in m.BROWS:
        pen.polygon(ring(brow), (*_tone(hair, 0.95), brow_alpha))
    # The margin leaves room for the blur, which costs by the area.
    left, top, right, bottom = layer.getbbox() or (0, 0, 1, 1)
    layer = layer.crop((left - 8, top - 8, right + 8, bottom + 8))
    layer = layer.filter(ImageFilter.GaussianBlur(w * 0.006))
    face.paste(layer, (left - 8, top - 8), layer)
    pen = ImageDraw.Draw(face)
    for eye in m.EYES:
        _draw_eye(face, pen, points[list(eye)], look, float(view.shade[list(eye)].mean()))


def _draw_eye(
    face: Image.Image, pen: ImageDraw.ImageDraw, ring: np.ndarray, look: Appearance, light: float
) -> None:
    """One eye: the ring's first nine points are the lower lid, the rest the upper."""
    skin = SKINS[look.skin]
    left, top = np.floor(ring.min(0) - 3).astype(int)
    right, bottom = np.ceil(ring.max(0) + 3).astype(int)
    wide = float(np.ptp(ring[:, 0]))
    local = [(float(px - left), float(py - top)) for px, py in ring]
    patch = Image.new("RGB", (int(right - left), int(bottom - top)), _tone((238, 234, 230), light))
    inside = ImageDraw.Draw(patch)
    cx, cy = np.mean(local, axis=0) + np.asarray(look.gaze) * (wide, wide * 0.4)
    radius = wide * 0.26
    for share, colour in (
        (1.0, _tone(look.iris, 0.62)),
        (0.86, _tone(look.iris, 1.0)),
        (0.45, (14, 11, 11)),
    ):
        r = radius * share
        inside.ellipse([cx - r, cy - r, cx + r, cy + r], colour)
    # The shadow that the upper lid throws on the eyeball.
    upper = [local[8], *local[9:], local[0]]
    inside.line(upper, _tone((150, 140, 138), light), width=max(1, round(wide * 0.09)))
    r = radius * 0.24
    hx, hy = cx + radius * 0.35, cy - radius * 0.4
    inside.ellipse([hx - r, hy - r, hx + r, hy + r], (252, 252, 252))
    mask = Image.new("L", patch.size, 0)
    ImageDraw.Draw(mask).polygon(local, 255)
    face.paste(patch, (int(left), int(top)), mask)
    lid = [tuple(q) for q in ring[[8, *range(9, 16), 0]]]
    low = [tuple(q) for q in ring[:9]]
    crease = [(px, py - wide * 0.13) for px, py in lid[1:-1]]
    pen.line(crease, _tone(skin, 0.70 * light), width=max(1, round(wide * 0.035)), joint="curve")
    pen.line(low, _tone(skin, 0.66 * light), width=max(1, round(wide * 0.03)), joint="curve")
    pen.line(lid, _tone((48, 34, 30), light), width=max(1, round(wide * 0.075)), joint="curve")


def _draw_hair(face: Image.Image, view: _View, look: Appearance, rng: np.random.Generator) -> None:
    """The hair over the forehead and around the skull, with a few lighter and darker strands."""
    hair = HAIRS[look.hair]
    outer = view.points_px[list(_UPPER_OVAL)]
    inner = view.points_px[list(_FOREHEAD)]
    share = _HAIRLINE[look.hair_style]
    # A hairline that wavers a little, fixed at the temples.
    taper = np.sin(np.linspace(0, np.pi, len(outer)))[:, None]
    waver = rng.normal(0, 0.12, (len(outer), 1)) * taper
    hairline = outer + (inner - outer) * (share * taper**0.5 + waver)
    pivot = view.centre_px + (0, view.height_px * 0.02)
    volume = {"short": 1.14, "fringe": 1.17, "long": 1.2, "thin": 1.08}[look.hair_style]
    grown = 1 + (volume - 1) * (0.45 + 0.55 * taper)
    skull = pivot + (outer - pivot) * np.concatenate([grown, grown + 0.06 * taper], 1)
    mask = Image.new("L", face.size, 0)
    pen = ImageDraw.Draw(mask)
    pen.polygon([tuple(q) for q in skull] + [tuple(q) for q in hairline[::-1]], 255)
    if look.hair_style == "long":
        for side, edge in ((skull[0], outer[0]), (skull[-1], outer[-1])):
            drop = view.height_px * 0.62
            pen.polygon(
                [tuple(side), tuple(edge), (edge[0], edge[1] + drop), (side[0], side[1] + drop)],
                255,
            )
    mask = mask.filter(ImageFilter.BoxBlur(view.width_px * 0.012))
    left, top, right, bottom = mask.getbbox() or (0, 0, 1, 1)
    shine = np.linspace(1.25, 0.75, face.height, dtype=np.float32)[top:bottom]
    strands = np.repeat(rng.normal(1, 0.07, face.width // 4 + 1), 4)[left:right]
    tones = strands.astype(np.float32)[:, None] * np.asarray(hair, np.float32)
    colours = np.minimum(shine[:, None, None] * tones, 255).astype(np.uint8)
    box = (left, top, right, bottom)
    face.paste(Image.fromarray(colours), box, mask.crop(box))
