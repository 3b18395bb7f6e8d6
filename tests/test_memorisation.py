"""Memorisation: copies of training photos score 1, copies of held-out ones 0, others between."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from synth_pipeline import landmarks, memorisation


@pytest.fixture
def measure(landmark_model, phantom_files, tmp_path):
    """Scores by class; each class's photos are cut into training and held-out ones."""

    def find(name: str, images) -> object:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        landmarks.run(
            images, model=landmark_model, out_dir=folder, class_id=name, real_photos=False
        )
        return folder

    def run(made, training: int = 3):
        """`made`: class to pictures, from its training and its held-out files."""
        real, held_out, synthetic, found, drawn = {}, {}, {}, {}, {}
        for name, files in phantom_files.items():
            own, control = files[:training], files[training:]
            real[name] = [(f"{name}-{n}", path) for n, path in enumerate(own)]
            held_out[name] = control
            synthetic[name] = []
            for index, picture in enumerate(made(own, control)):
                path = tmp_path / f"{name}-{index}.png"
                picture.save(path)
                synthetic[name].append((index, path))
            found[name] = find(f"real-{name}", real[name])
            drawn[name] = find(f"made-{name}", [(f"{i:05d}", p) for i, p in synthetic[name]])
        out_dir = tmp_path / "out"
        out_dir.mkdir()
        done = memorisation.run(
            real=real,
            held_out=held_out,
            synthetic=synthetic,
            real_landmarks=found,
            synthetic_landmarks=drawn,
            landmark_model=landmark_model,
            seed=1,
            out_dir=out_dir,
        )
        rows = pq.read_table(out_dir / "memorisation.parquet").to_pylist()
        return done, {row["class_id"]: row for row in rows}

    return run


def _opened(paths):
    return [Image.open(path).convert("RGB").resize((120, 120)) for path in paths]


def test_copies_of_training_photos_are_memorised(measure, phantom_files):
    done, rows = measure(lambda own, control: _opened(own))
    # Of the pairs only the photo itself is surely nearer: a third at least, and far above chance.
    assert done["score"] > 0.6
    assert rows[None]["low"] <= rows[None]["score"] <= rows[None]["high"]
    assert set(rows) == {None, *phantom_files}
    assert all(row["low"] <= row["score"] <= row["high"] for row in rows.values())


def test_copies_of_held_out_photos_score_the_other_way(measure):
    done, _ = measure(lambda own, control: _opened(control))
    assert done["score"] < 0.4


def test_one_held_out_photo_gives_no_interval(measure, phantom_files):
    shots = len(next(iter(phantom_files.values()))) - 1
    _, rows = measure(lambda own, control: _opened(own), training=shots)
    row = rows[next(iter(phantom_files))]
    assert row["held_out"] == 1
    assert row["score"] is not None
    assert row["low"] is None


def test_without_held_out_photos_or_faces_nothing_is_said(measure, phantom_files):
    shots = len(next(iter(phantom_files.values())))
    done, rows = measure(lambda own, control: [Image.new("RGB", (64, 64))], training=shots)
    assert done == {}
    assert all(row["score"] is None for row in rows.values())


def test_photos_with_a_face_are_counted_where_no_image_shows_one(measure, phantom_files):
    done, rows = measure(lambda own, control: [Image.new("RGB", (64, 64))])
    assert done == {}
    for name in phantom_files:
        counts = {kind: rows[name][kind] for kind in ("images", "training", "held_out", "score")}
        assert counts == {"images": 0, "training": 3, "held_out": 3, "score": None}


def test_the_score_is_a_share_of_triples_whatever_their_number():
    rng = np.random.default_rng(0)
    training, held_out = rng.random((40, 3)), rng.random((40, 9))
    row = memorisation._score(training, held_out, rng)
    assert row["score"] == pytest.approx(
        np.mean([t < h for s in range(40) for t in training[s] for h in held_out[s]])
    )
    assert row["low"] < 0.5 < row["high"]
