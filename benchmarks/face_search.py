"""How many faces are found, and where, with the search for small and turned ones and without.

    python -m benchmarks.face_search [--people 10] [--frame 1000]

About a second a picture of the 480 on one core. Photos of ../shared/faces, and phantoms without
them, are drawn into a larger frame in which the face takes 5 to 100 % of the side, turned by 0 to
315 degrees. What is right is known from the upright photo: a face is found if the median of its
points lies within 15 % of the distance between the eyes, and misplaced otherwise. Both ways look at
the same pictures in turn. The last line is JSON:

    ratio               faces found with the search over faces found without it
    recall              share of faces found, with the search; `recall_before` without it
    misplaced           share of faces misplaced, with the search; `misplaced_before` without it
    by_size             of each share of the frame, in percent: recall before and now
    by_turn             of each turn in degrees: recall before and now, misplaced before and now
    changed             of upright photos as they are, how many have other points with the search
    upright_ratio       processor time of those with the search over without it (the
                        detector's confidence is asked for in both)
    false               faces "found" with the search in frames without one
    seconds             of the processor, of a search in a frame without a face
"""

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.phantoms import write_photos
from synth_pipeline.face_mesh import Face, FaceMesh, face_mesh
from synth_pipeline.models import face_landmarker_path

SHARES = (5, 10, 15, 25, 50, 100)
TURNS = range(0, 360, 45)
EMPTY = 10
_RIGHT = 0.15
_PHOTOS = Path(__file__).parents[2] / "shared" / "faces"
_IRISES = (468, 473)


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser()
    options.add_argument("--people", type=int, default=10)
    options.add_argument("--frame", type=int, default=1000, help="pixels a side")
    options.add_argument("--photos", type=Path, default=_PHOTOS)
    wanted = options.parse_args()
    model = face_landmarker_path()
    with tempfile.TemporaryDirectory() as scratch, face_mesh(model) as mesh:
        files = _files(wanted.photos, wanted.people, Path(scratch))
        # On its own thread, as the workers do.
        figures = mesh.worker.submit(_measure, mesh, files, wanted.frame).result()
    figures["data"] = "photos" if wanted.photos.is_dir() else "phantoms"
    print(json.dumps(figures))


def _files(photos: Path, people: int, scratch: Path) -> list[Path]:
    """A photo of each person, evenly among those there are."""
    if photos.is_dir():
        portraits = [min(folder.glob("*.jpg")) for folder in sorted((photos / "lfw40").iterdir())]
        portraits += sorted((photos / "london102").glob("*.jpg"))[::5]
    else:
        made = write_photos(scratch, classes=people, per_class=1, size_px=256, seed=5)
        portraits = [files[0] for files in made.values()]
    chosen = np.linspace(0, len(portraits) - 1, people).round().astype(int)
    return [portraits[number] for number in chosen]


def _measure(mesh: FaceMesh, files: list[Path], frame_px: int) -> dict[str, object]:
    rng = np.random.default_rng(0)
    # Of each share and turn: found and misplaced, before and now.
    counts: dict[tuple[int, int], np.ndarray] = defaultdict(lambda: np.zeros((2, 2), int))
    changed = 0
    spent_s = np.zeros(2)
    for number, file in enumerate(files, start=1):
        with Image.open(file) as opened:
            photo = opened.convert("RGB")
        upright, took_s = _looks(mesh, np.asarray(photo))
        spent_s += took_s
        before, now = upright
        assert before is not None and now is not None, "a portrait without a face"
        changed += not np.array_equal(before.points_px, now.points_px)
        for share in SHARES:
            for turn in TURNS:
                drawn = _drawn(photo, before.points_px[:, :2], share, turn, frame_px, rng)
                faces, _ = _looks(mesh, drawn[0])
                for way, face in enumerate(faces):
                    if face is not None:
                        counts[share, turn][way, 0 if _is_right(face, drawn[1]) else 1] += 1
        print(f"{number} of {len(files)} people", file=sys.stderr, flush=True)
    false, searched_s = 0, []
    for _ in range(EMPTY):
        begun_s = time.process_time()
        false += mesh.find_here(_background(frame_px, rng)) is not None
        searched_s.append(time.process_time() - begun_s)
    total = sum(counts.values())
    pictures = len(files) * len(SHARES) * len(TURNS)
    return {
        "ratio": total[1, 0] / max(total[0, 0], 1),
        "recall_before": total[0, 0] / pictures,
        "recall": total[1, 0] / pictures,
        "misplaced_before": total[0, 1] / pictures,
        "misplaced": total[1, 1] / pictures,
        "by_size": {
            share: [_share(counts, way, 0, [share], TURNS, len(files)) for way in (0, 1)]
            for share in SHARES
        },
        "by_turn": {
            turn: [
                _share(counts, way, kind, SHARES, [turn], len(files))
                for kind in (0, 1)
                for way in (0, 1)
            ]
            for turn in TURNS
        },
        "changed": changed,
        "upright_ratio": spent_s[1] / spent_s[0],
        "false": false,
        "seconds": float(np.median(searched_s)),
        "pictures": pictures,
    }


def _looks(mesh: FaceMesh, pixels_HWC: np.ndarray) -> tuple[list[Face | None], np.ndarray]:
    """What is seen without the search and with it, and the seconds that each took."""
    faces, took_s = [], []
    for search in (False, True):
        begun_s = time.process_time()
        faces.append(mesh.find_here(pixels_HWC, confidence=True, search=search))
        took_s.append(time.process_time() - begun_s)
    return faces, np.array(took_s)


def _drawn(
    photo: Image.Image,
    points_px: np.ndarray,
    share: int,
    turn_deg: int,
    frame_px: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A frame with the photo in it, and where the face's points lie."""
    scale = share / 100 * frame_px / float(np.ptp(points_px, axis=0).max())
    size = (round(photo.width * scale), round(photo.height * scale))
    scaled = photo.resize(size, Image.Resampling.LANCZOS)
    mask = Image.new("L", size, 255)
    # PIL turns counter-clockwise.
    drawn, mask = (
        each.rotate(turn_deg, Image.Resampling.BICUBIC, expand=True) for each in (scaled, mask)
    )
    turn = np.deg2rad(turn_deg)
    turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    points = (points_px * scale - np.array(size) / 2) @ turned.T + np.array(drawn.size) / 2
    low, high = points.min(0), points.max(0)
    room = np.maximum(frame_px - (high - low), 0)
    # A face as large as the frame lies in its middle.
    place = room / 2 if share == 100 else rng.uniform(0, room)
    corner = np.round(place - low + np.minimum(frame_px - (high - low), 0) / 2).astype(int)
    frame = Image.fromarray(_background(frame_px, rng))
    frame.paste(drawn, (int(corner[0]), int(corner[1])), mask)
    return np.asarray(frame), points + corner


def _background(frame_px: int, rng: np.random.Generator) -> np.ndarray:
    """Clouds of colour."""
    clouds = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8))
    return np.asarray(clouds.resize((frame_px, frame_px), Image.Resampling.BICUBIC))


def _is_right(face: Face, points_px: np.ndarray) -> bool:
    apart = np.linalg.norm(face.points_px[:, :2] - points_px, axis=1)
    right, left = _IRISES
    between_eyes = np.linalg.norm(points_px[right] - points_px[left])
    return bool(np.median(apart) < _RIGHT * between_eyes)


def _share(
    counts: Mapping[tuple[int, int], np.ndarray],
    way: int,
    kind: int,
    shares: Sequence[int],
    turns: Sequence[int],
    people: int,
) -> float:
    """Found (kind 0) or misplaced (1), before (way 0) or now (1), of some sizes and turns."""
    found = sum(counts[share, turn][way, kind] for share in shares for turn in turns)
    return round(float(found) / (people * len(shares) * len(turns)), 3)


if __name__ == "__main__":
    main()
