"""A saved state that is damaged costs its time, and no class: it is set aside and begun anew."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from synth_pipeline import checkpoints, dreambooth, training, tuning
from synth_pipeline.base_model import resolve_base
from synth_pipeline.config import DreamBoothConfig, Grid, RecognitionConfig
from synth_pipeline.phantom.resumable import Training
from synth_pipeline.recognition_data import Example
from synth_pipeline.store import file_sha256

RECOGNITION = RecognitionConfig(
    pretrained=False, folds=2, epochs=3, batch_size=8, size_px=32, dropout=0.0, checkpoint_s=0
)


class Planted:
    """A pickle that runs when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


def flip(path: Path, at: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 4
    path.write_bytes(content)


def planted_in_an_archive(path: Path) -> None:
    torch.save({"identity": "a", "losses": Planted(path.with_name("ran"))}, path)
    with path.open("r+b") as stream:
        checkpoints._seal(stream)


def other_shapes(path: Path) -> None:
    """Sealed, and of this training by its name, but with nothing in it that fits."""
    state = torch.load(path, weights_only=True)
    ones = {name: torch.ones(3) for name in state}
    checkpoints.save(path, {**ones, "identity": state["identity"]})


def in_place_of_it(make):
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


DAMAGE = {
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut by one byte": lambda path: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path: os.truncate(path, 0),
    "flipped at the start": lambda path: flip(path, 0),
    "flipped": lambda path: flip(path, 0.5),
    "flipped at the end": lambda path: flip(path, 1),
    "unsealed": lambda path: torch.save(torch.load(path, weights_only=True), path),
    "another type": lambda path: torch.save([1, 2], path),
    "other shapes": other_shapes,
    "text": lambda path: path.write_text("hello"),
    "pickle": lambda path: path.write_bytes(pickle.dumps(Planted(path.with_name("ran")))),
    "planted in an archive": planted_in_an_archive,
    "folder": in_place_of_it(Path.mkdir),
    "full folder": in_place_of_it(lambda path: (path / "more").mkdir(parents=True)),
    "pipe": in_place_of_it(os.mkfifo),
    "dangling link": in_place_of_it(lambda path: path.symlink_to("nowhere")),
    "link to itself": in_place_of_it(lambda path: path.symlink_to(path.name)),
}


@pytest.fixture(scope="module")
def computations(phantom_files, tiny_base, tmp_path_factory):
    """Of each kind of training how to run it in a folder, and its state in the middle."""
    name, paths = next(iter(phantom_files.items()))
    examples = [
        Example(path, class_id, f"{class_id}/{n}", False)
        for class_id, each in phantom_files.items()
        for n, path in enumerate(each)
    ]
    recognition = {"backbone": "test_resnet", "classes": sorted(phantom_files), "seed": 5}

    def fine_tune(method):
        def run(out_dir, work_dir, progress):
            config = DreamBoothConfig(
                steps=4, learning_rate=1e-3, batch_size=2, rank=2, method=method, checkpoint_steps=2
            )
            dreambooth.run(
                config,
                class_id=name,
                class_name=name,
                images=paths[:2],
                base=resolve_base(str(tiny_base)),
                seed=7,
                out_dir=out_dir,
                work_dir=work_dir,
                progress=progress,
            )

        return run

    def train(out_dir, work_dir, progress):
        training.run(
            RECOGNITION,
            examples=examples,
            fold=1,
            out_dir=out_dir,
            work_dir=work_dir,
            progress=progress,
            **recognition,
        )

    def tune(out_dir, work_dir, progress):
        config = RECOGNITION.model_copy(
            update={"epochs": 1, "grid": Grid(learning_rate=[1e-3], weight_decay=[0.0, 0.1])}
        )
        tuning.run(
            config,
            examples=examples,
            out_dir=out_dir,
            work_dir=work_dir,
            progress=progress,
            **recognition,
        )

    def phantom(out_dir, work_dir, progress):
        torch.manual_seed(0)
        module = torch.nn.Linear(4, 4)
        begun = Training(work_dir / "state.pt", {"module": module}, 1e-2, 130)
        begun.run(lambda step: module(torch.ones(4)).square().sum(), progress, "")
        torch.save(begun.ema, out_dir / "ema.pt")

    return {
        "lora": (fine_tune("lora"), 2),
        "full": (fine_tune("full"), 2),
        "fold": (train, 2),
        "tuning": (tune, 3),
        "phantom": (phantom, 120),
    }


@pytest.fixture(scope="module")
def half_done(computations, tmp_path_factory):
    """Of each kind the results of an undisturbed run, and the folder of a stopped one's state."""
    made = {}

    def half(kind):
        if kind not in made:
            run, stop_at = computations[kind]
            place = tmp_path_factory.mktemp(kind)
            for each in ("whole", "none", "cut", "work"):
                (place / each).mkdir()

            def stop(done, *_):
                if done == stop_at:
                    raise KeyboardInterrupt

            run(place / "whole", place / "none", lambda *_: None)
            with pytest.raises(KeyboardInterrupt):
                run(place / "cut", place / "work", stop)
            made[kind] = results(place / "whole"), place / "work"
        return made[kind]

    return half


def results(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("kind", ["lora", "full", "fold", "phantom"])
def test_a_training_begins_anew_whatever_became_of_its_state(
    kind, computations, half_done, tmp_path, caplog
):
    run, _ = computations[kind]
    whole, work = half_done(kind)
    # All of them where it is quickest.
    some = DAMAGE if kind == "fold" else ("cut", "flipped", "other shapes", "pickle", "folder")
    for number, damage in enumerate(some):
        spoil = DAMAGE[damage]
        out_dir, work_dir = tmp_path / f"out-{number}", tmp_path / f"work-{number}"
        out_dir.mkdir()
        shutil.copytree(work, work_dir)
        spoil(work_dir / "state.pt")
        caplog.clear()
        begun = []
        run(out_dir, work_dir, lambda done, *_, begun=begun: begun.append(done))
        assert begun[0] == 1, damage
        assert results(out_dir) == whole, damage
        assert "begins anew" in caplog.text, damage
        assert str(tmp_path) not in caplog.text
        assert os.path.lexists(work_dir / "state.pt.damaged"), damage
        assert not (work_dir / "ran").exists()
        # And the next damaged one finds the name taken.
        if damage in ("folder", "full folder"):
            checkpoints.save(work_dir / "state.pt", {"identity": "a"})
            spoil(work_dir / "state.pt")
            assert checkpoints.load(work_dir / "state.pt", "a") is None


@pytest.mark.parametrize("kind", ["lora", "full", "fold", "tuning", "phantom"])
def test_a_sound_state_is_gone_on_from(kind, computations, half_done, tmp_path, caplog):
    run, _ = computations[kind]
    whole, work = half_done(kind)
    (tmp_path / "out").mkdir()
    shutil.copytree(work, tmp_path / "work")
    begun = []
    run(tmp_path / "out", tmp_path / "work", lambda done, *_: begun.append(done))
    assert results(tmp_path / "out") == whole
    assert not caplog.text
    if kind != "tuning":  # which tells of what was done before, too
        assert begun[0] > 1


def change_a_score(path: Path) -> None:
    known = json.loads(path.read_bytes())
    next(iter(known["values"].values()))[0] += 0.25
    path.write_text(json.dumps(known))


SCORES = {
    name: spoil
    for name, spoil in DAMAGE.items()
    if name not in ("unsealed", "another type", "other shapes", "planted in an archive")
} | {
    "a score was changed": change_a_score,
    "a list": lambda path: path.write_text("[1, 2]"),
    "deep": lambda path: path.write_text("[" * 100_000),
    "sealed, of another kind": lambda path: checkpoints.save_values(path, [1, 2]),
    "sealed, with other names": lambda path: checkpoints.save_values(path, {"a": [0.1, 0.2]}),
    "not UTF-8": lambda path: path.write_bytes(b"\xff" + path.read_bytes()),
}


def test_a_search_begins_anew_whatever_became_of_its_scores(
    computations, half_done, tmp_path, caplog
):
    run, _ = computations["tuning"]
    whole, work = half_done("tuning")
    for number, (damage, spoil) in enumerate(SCORES.items()):
        work_dir = tmp_path / f"work-{number}"
        shutil.copytree(work, work_dir)
        spoil(work_dir / "scores.json")
        caplog.clear()
        known = tuning._known(work_dir / "scores.json", [])
        assert known == {}, damage
        assert "begins anew" in caplog.text, damage
        assert os.path.lexists(work_dir / "scores.json.damaged"), damage
        if damage in ("cut", "flipped", "a score was changed"):
            out_dir = tmp_path / f"out-{number}"
            out_dir.mkdir()
            run(out_dir, work_dir, lambda *_: None)
            assert results(out_dir) == whole, damage


def test_every_flipped_bit_is_found(tmp_path):
    """Also where a ZIP archive keeps no checksum, as in its directory."""
    sound = tmp_path / "sound.pt"
    checkpoints.save(sound, {"identity": "a", "weights": torch.arange(4.0)})
    path = tmp_path / "state.pt"
    for at in range(0, sound.stat().st_size, 37):
        shutil.copy(sound, path)
        content = bytearray(path.read_bytes())
        content[at] ^= 1
        path.write_bytes(content)
        assert checkpoints.load(path, "a") is None, at
    assert checkpoints.load(sound, "a") is not None
