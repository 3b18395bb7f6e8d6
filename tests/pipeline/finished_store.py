"""A finished study as an archive: its configuration, its photos (phantoms) and its store.

`python -m tests.pipeline.finished_store` runs it anew with the code as it is.
"""

import shutil
import tarfile
import tempfile
from pathlib import Path

from synth_pipeline.models import face_landmarker_path
from synth_pipeline.phantom.dataset import make_dataset
from tests.command_line import command

ARCHIVE = Path(__file__).with_name("finished_store.tar.xz")
#: Every stage, as small as it gets: prior preservation, tuning and mixed training as well.
CONFIG = """
name: finished
seed: 3
cases: {format: csv}
dreambooth:
  {morphs: true, steps: 2, learning_rate: 0.0005, batch_size: 2, rank: 2, prior_weight: 1.0,
   class_images: 2}
sampling: {images_per_class: 3, steps: 4, guidance_scale: 2.0, scheduler: base, batch_size: 6}
selection: {scales: [4]}
recognition:
  backbones: [test_convnext]
  regimes: [real, mixed]
  pretrained: false
  folds: 2
  epochs: 1
  size_px: 32
  grid: {learning_rate: [0.0001, 0.001], weight_decay: []}
"""


def unpack(folder: Path) -> Path:
    """Lay the archive out in a folder, and return it."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def arguments(folder: Path) -> list[str]:
    """What the commands are given in such a folder, after their name."""
    source = f"cases.source={folder / 'photos'}"
    return [str(folder / "finished.yaml"), "--root", str(folder / "root"), "--set", source]


def _make(folder: Path) -> None:
    config = folder / "finished.yaml"
    config.write_text(CONFIG)
    make_dataset(
        folder / "photos",
        classes=2,
        per_class=3,
        test_per_class=1,
        size_px=64,
        seed=1,
        mesh_path=face_landmarker_path(),
    )
    done = command("run", *arguments(folder))
    assert done.code == 0, done.err
    shutil.rmtree(folder / "root" / "prefect")
    with tarfile.open(ARCHIVE, "w:xz") as archive:
        archive.add(config, config.name)
        for name in ("photos", "root/store", "root/studies"):
            archive.add(folder / name, name)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        _make(Path(scratch))
