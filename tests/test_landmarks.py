"""Landmarks: MediaPipe really runs, on rendered faces, and reaches no network."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from synth_pipeline import landmarks
from synth_pipeline.errors import ClassFailedError
from synth_pipeline.face_mesh import face_mesh
from synth_pipeline.face_workers import sightings
from synth_pipeline.photos import sanitise

# Threads that the kernel lets open a socket show `Seccomp: 0`.
OFFLINE = """
import os, socket, sys
from pathlib import Path
import numpy as np
from synth_pipeline.face_mesh import face_mesh
from synth_pipeline.photos import sanitise

def threads():
    return set(os.listdir("/proc/self/task"))

before = threads()
with face_mesh(Path(sys.argv[1])) as mesh:
    mesh.find(np.zeros((64, 64, 3), np.uint8))
    started = threads() - before
    for thread in started:
        status = Path(f"/proc/self/task/{thread}/status").read_text()
        assert "Seccomp:\\t2\\n" in status, status
socket.socket().close()
print(len(started))
"""


@pytest.fixture
def find(landmark_model, tmp_path):
    """Landmarks of images that are given as pictures."""

    def run(*pictures: Image.Image, name: str = "out", real_photos: bool = False):
        images = []
        out_dir = tmp_path / name
        out_dir.mkdir()
        for number, picture in enumerate(pictures):
            path = tmp_path / f"{name}-{number}.png"
            picture.save(path)
            images.append((str(number), path))
        landmarks.run(
            images,
            model=landmark_model,
            out_dir=out_dir,
            class_id="kapido",
            real_photos=real_photos,
        )
        return landmarks.load(out_dir)

    return run


@pytest.fixture(scope="session")
def face(phantom_files) -> Image.Image:
    first = next(iter(phantom_files.values()))[0]
    return Image.open(first).convert("RGB").resize((256, 256), Image.Resampling.LANCZOS)


def _apart_share(a_px: np.ndarray, b_px: np.ndarray) -> float:
    """Median distance of points as a share of the distance between the irises."""
    between_eyes_px = np.linalg.norm(a_px[468, :2] - a_px[473, :2])
    return float(np.median(np.linalg.norm(a_px[:, :2] - b_px[:, :2], axis=1)) / between_eyes_px)


def test_no_thread_of_mediapipe_reaches_the_internet(landmark_model):
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(landmark_model)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # The worker and MediaPipe's own: were there none of those, nothing would have been tested.
    assert int(done.stdout) >= 2


def test_mediapipe_writes_nothing_to_the_terminal(find, face, capfd):
    find(face)
    written = capfd.readouterr()
    assert (written.out, written.err) == ("", "")


def test_every_phantom_has_one_face(find, phantom_files):
    pictures = [Image.open(path) for files in phantom_files.values() for path in files]
    table = find(*pictures)
    assert table.found.all()
    assert table.points_px.shape == (len(pictures), 478, 3)
    # Pixels, not shares of the picture.
    assert 30 < np.ptp(table.points_px[0, :, 0]) < 128


def test_points_follow_a_face_that_moves(find, face):
    canvas = Image.new("RGB", (500, 400), (90, 90, 90))
    canvas.paste(face, (180, 100))
    table = find(face, canvas)
    assert _apart_share(table.points_px[0] + (180, 100, 0), table.points_px[1]) < 0.03


def test_a_tight_crop_is_padded_and_its_points_mapped_back(find, face, landmark_model):
    whole = find(face, name="whole").points_px[0]
    low, high = whole[:, :2].min(0), whole[:, :2].max(0)
    inset = 0.16 * (high - low)
    left, top, right, bottom = (int(value) for value in (*(low + inset), *(high - inset)))
    crop = face.crop((left, top, right, bottom))
    with face_mesh(landmark_model) as mesh:
        assert not mesh._faces(mesh._image(np.asarray(crop)), 0), "found without padding"
    table = find(crop, name="crop")
    assert table.found[0]
    assert _apart_share(whole, table.points_px[0] + (left, top, 0)) < 0.1


def test_the_largest_of_several_faces_is_taken_and_all_are_counted(find, face, tmp_path):
    small = face.resize((150, 150))
    canvas = Image.new("RGB", (560, 300), (90, 90, 90))
    canvas.paste(small, (10, 80))
    canvas.paste(face, (290, 20))
    table = find(canvas)
    assert table.points_px[0, :, 0].mean() > 290
    assert pq.read_table(tmp_path / "out" / "landmarks.parquet")["faces"].to_pylist() == [2]


def test_without_a_face_the_points_are_not_a_number(find, face):
    table = find(Image.new("RGB", (128, 128), (120, 120, 120)), face)
    assert table.found.tolist() == [False, True]
    assert np.isnan(table.points_px[0]).all()
    assert not np.isnan(table.points_px[1]).any()


def test_a_class_without_any_face_fails_and_leaves_nothing(find, tmp_path):
    with pytest.raises(ClassFailedError, match=r"no face .* 1 training photos") as caught:
        find(Image.new("RGB", (128, 128)), real_photos=True)
    assert caught.value.class_id == "kapido"
    assert list((tmp_path / "out").iterdir()) == []


def test_same_photos_give_the_same_bytes(find, face, tmp_path):
    grey = face.convert("L")
    for name in ("first", "second"):
        find(face, grey, name=name)
    first, second = (tmp_path / name / "landmarks.parquet" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.shared
def test_irises_lie_where_people_marked_the_pupils(find, real_faces):
    import csv

    marked: dict[str, list[tuple[float, float]]] = {}
    with (real_faces / "london102" / "points.csv").open() as stream:
        for row in csv.DictReader(stream):
            if row["point"] in ("0", "1"):
                marked.setdefault(row["face"], []).append((float(row["x_px"]), float(row["y_px"])))
    names = sorted(marked)
    # As a study imports them: every step that comes before the landmarks is in it.
    table = find(*(sanitise(real_faces / "london102" / f"{name}.jpg").image for name in names))
    shares = []
    for name, points_px in zip(names, table.points_px, strict=True):
        pupils_px = np.array(marked[name])
        apart_px = np.linalg.norm(pupils_px[0] - pupils_px[1])
        for iris in (468, 473):
            nearest_px = np.linalg.norm(pupils_px - points_px[iris, :2], axis=1).min()
            shares.append(nearest_px / apart_px)
    assert len(shares) == 2 * 102
    assert np.median(shares) < 0.015


def test_confidence_and_pose_are_kept(find, face, tmp_path):
    pictures = (
        face,
        face.rotate(20, fillcolor=(90, 90, 90)),
        face.transpose(Image.FLIP_LEFT_RIGHT),
    )
    find(*pictures, real_photos=True)
    straight, turned, mirrored = pq.read_table(tmp_path / "out" / "landmarks.parquet").to_pylist()
    assert 0.5 < straight["confidence"] <= 1
    # PIL turns counter-clockwise.
    assert straight["roll_deg"] - turned["roll_deg"] == pytest.approx(20, abs=3)
    assert mirrored["yaw_deg"] == pytest.approx(-straight["yaw_deg"], abs=4)


def test_a_corrupt_image_in_the_middle_is_named_and_counted(face, landmark_model, tmp_path, caplog):
    for name in ("1", "3"):
        face.save(tmp_path / f"{name}.png")
    (tmp_path / "2.png").write_bytes((tmp_path / "1.png").read_bytes()[:2000])
    done = landmarks.run(
        [(name, tmp_path / f"{name}.png") for name in ("1", "2", "3")],
        model=landmark_model,
        out_dir=tmp_path,
        class_id="kapido",
        real_photos=False,
    )
    assert done == {"images": 3, "found": 2, "unreadable": 1}
    assert landmarks.load(tmp_path).found.tolist() == [True, False, True]
    assert "class kapido: damaged: 2" in caplog.text


def test_any_number_of_workers_gives_the_same_bytes(landmark_model, phantom_files, tmp_path):
    files = [path for paths in phantom_files.values() for path in paths]
    made = []
    for workers in (1, 3):
        out_dir = tmp_path / str(workers)
        out_dir.mkdir()
        landmarks.run(
            [(str(number), path) for number, path in enumerate(files)],
            model=landmark_model,
            out_dir=out_dir,
            class_id="kapido",
            real_photos=True,
            workers=workers,
        )
        made.append((out_dir / "landmarks.parquet").read_bytes())
    assert made[0] == made[1]


def test_killed_workers_change_nothing(landmark_model, phantom_files, tmp_path):
    files = [path for paths in phantom_files.values() for path in paths]
    made = []
    for name, kill in (("alone", False), ("killed", True)):
        out_dir = tmp_path / name
        out_dir.mkdir()

        def progress(done: int, total: int, note: str, kill: bool = kill) -> None:
            if kill and done in (3, 7):
                for pid in workers():
                    os.kill(pid, signal.SIGKILL)

        landmarks.run(
            [(str(number), path) for number, path in enumerate(files)],
            model=landmark_model,
            out_dir=out_dir,
            class_id="kapido",
            real_photos=True,
            workers=2,
            progress=progress,
        )
        made.append((out_dir / "landmarks.parquet").read_bytes())
    assert made[0] == made[1]


def test_workers_are_kept_and_end_with_us(landmark_model, phantom_files, tmp_path):
    path = next(path for paths in phantom_files.values() for path in paths)
    work = """
import os, sys
from pathlib import Path
from synth_pipeline import landmarks
for name in "ab":
    out_dir = Path(sys.argv[3]) / name
    out_dir.mkdir()
    landmarks.run([("0", Path(sys.argv[2]))], model=Path(sys.argv[1]), out_dir=out_dir,
                  class_id="kapido", real_photos=True)
    print(Path("/proc/self/task/" + str(os.getpid()) + "/children").read_text())
    sys.stdout.flush()
sys.stdin.readline()
"""
    ours = subprocess.Popen(
        [sys.executable, "-c", work, str(landmark_model), str(path), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert ours.stdout is not None
    first, second = (int(ours.stdout.readline()) for _ in range(2))
    assert first == second
    ours.communicate("\n")
    assert ours.returncode == 0
    assert not Path(f"/proc/{first}").exists()


def workers() -> list[int]:
    """The processes that look for faces, whichever of our threads began them."""
    found = []
    for children in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # threads and processes end meanwhile
            for pid in children.read_text().split():
                if "face_workers" in Path(f"/proc/{pid}/cmdline").read_text():
                    found.append(int(pid))
    return found


def test_a_worker_looks_in_the_folder_where_the_process_is_now(
    phantom_files, landmark_model, tmp_path, monkeypatch
):
    """It is kept for the next class, and a notebook may have gone elsewhere meanwhile."""
    path = next(iter(phantom_files.values()))[0]
    shutil.copy(path, tmp_path / "here.png")
    for each in (path, Path("here.png")):
        with sightings(landmark_model, [each], confidence=False, workers=1) as seen:
            assert next(seen).face is not None
        monkeypatch.chdir(tmp_path)
