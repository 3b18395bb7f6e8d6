"""Landmarks of many images, ours against a plain loop, side by side; and whether memory grows.

    python -m benchmarks.landmarks

About two minutes on two cores. The plain loop opens a picture, finds one face with MediaPipe's
landmarker and keeps its points, picture after picture; ours also counts further faces, pads tight
crops, keeps the head's pose and writes the table. The workers are begun before, as they are kept
from one class to the next; the first round shows what beginning takes. The last line is JSON:

    ratio               images per second, ours over the plain loop's: median of five rounds in turn
    photos_ratio        the same for real photos, of which the detector's confidence is kept too
    images_per_s        ours
    memory_growth_mb    resident memory after 2,000 images over that after 400, of this process and
                        of its workers together
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from synth_pipeline import landmarks
from synth_pipeline.models import face_landmarker_path
from synth_pipeline.offline import offline_worker
from synth_pipeline.phantom.dataset import make_dataset

ROUNDS = 5
CLASSES, EACH = 20, 20
IMAGES_FOR_MEMORY = 2000


def main() -> None:
    """Measure and print."""
    model = face_landmarker_path()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_dataset(
            folder / "phantoms",
            classes=CLASSES,
            per_class=EACH,
            test_per_class=0,
            size_px=256,
            seed=5,
            mesh_path=model,
        )
        files = sorted((folder / "phantoms" / "images").rglob("*.png"))
        begin_s = _ours(files[:16], model, folder / "begin")
        print(f"workers begun and 16 images: {begin_s:.1f} s", file=sys.stderr, flush=True)
        plain_s, ours_s, photos_s = [], [], []
        for number in range(ROUNDS):
            plain_s.append(_plain(files, model))
            ours_s.append(_ours(files, model, folder / str(number)))
            photos_s.append(_ours(files, model, folder / f"{number}-photos", real_photos=True))
            print(
                f"round {number + 1}: {len(files) / plain_s[-1]:.1f}, "
                f"{len(files) / ours_s[-1]:.1f} and {len(files) / photos_s[-1]:.1f} images/s",
                file=sys.stderr,
                flush=True,
            )
        before_mb = _resident_mb()
        _ours((files * IMAGES_FOR_MEMORY)[:IMAGES_FOR_MEMORY], model, folder / "many")
        growth_mb = _resident_mb() - before_mb
    figures = {
        "ratio": _ratio(plain_s, ours_s),
        "photos_ratio": _ratio(plain_s, photos_s),
        "images_per_s": len(files) / statistics.median(ours_s),
        "memory_growth_mb": growth_mb,
    }
    print(json.dumps(figures))


def _ratio(plain_s: Sequence[float], ours_s: Sequence[float]) -> float:
    return statistics.median(plain / ours for plain, ours in zip(plain_s, ours_s, strict=True))


def _plain(files: Sequence[Path], model: Path) -> float:
    """Seconds of the loop that people write."""
    import mediapipe as mp
    from mediapipe.tasks.python import BaseOptions, vision

    def work() -> float:
        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(model)), num_faces=1
        )
        begun_s = time.perf_counter()
        with vision.FaceLandmarker.create_from_options(options) as landmarker:
            kept = []
            for path in files:
                with Image.open(path) as opened:
                    pixels = np.asarray(opened.convert("RGB"))
                found = landmarker.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=pixels))
                if found.face_landmarks:
                    kept.append(np.array([(p.x, p.y, p.z) for p in found.face_landmarks[0]]))
        return time.perf_counter() - begun_s

    # Nothing phones home, not even from a yardstick.
    with offline_worker() as worker:
        return worker.submit(work).result()


def _ours(files: Sequence[Path], model: Path, out_dir: Path, *, real_photos: bool = False) -> float:
    out_dir.mkdir()
    begun_s = time.perf_counter()
    landmarks.run(
        [(str(number), path) for number, path in enumerate(files)],
        model=model,
        out_dir=out_dir,
        class_id="phantoms",
        real_photos=real_photos,
    )
    return time.perf_counter() - begun_s


def _resident_mb() -> float:
    ours = str(os.getpid())
    workers = Path(f"/proc/{ours}/task/{ours}/children").read_text().split()
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in (ours, *workers))
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
