"""Hyper-parameters by cross-validation: which is chosen, and that it goes on after a kill."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from synth_pipeline import tuning
from synth_pipeline.config import Grid, RecognitionConfig, load_config
from synth_pipeline.errors import InputError, StageError
from synth_pipeline.recognition_data import Example
from synth_pipeline.study import Study

CONFIG = RecognitionConfig(
    pretrained=False,
    folds=2,
    epochs=4,
    batch_size=4,
    grid={"learning_rate": [1e-9, 3e-3], "weight_decay": [0.0]},
    dropout=0.0,
    size_px=48,
)


@pytest.fixture
def tune(phantom_files, tmp_path):
    def run(name, config=CONFIG, progress=lambda *_: None):
        for folder in (tmp_path / name, tmp_path / f"work-{name}"):
            folder.mkdir(exist_ok=True)
        tuning.run(
            config,
            backbone="test_resnet",
            classes=sorted(phantom_files),
            examples=[
                Example(path, class_id, f"{class_id}/{n}", False)
                for class_id, paths in phantom_files.items()
                for n, path in enumerate(paths)
            ],
            seed=1,
            out_dir=tmp_path / name,
            work_dir=tmp_path / f"work-{name}",
            progress=progress,
        )
        return tmp_path / name

    return run


def test_the_best_mean_over_folds_is_chosen_and_it_goes_on_after_a_stop(tune):
    whole = tune("whole")
    rows = pq.read_table(whole / "tuning.parquet").to_pylist()
    assert len(rows) == 4
    mean = {}
    for rate in (1e-9, 3e-3):
        folds = [row for row in rows if row["learning_rate"] == rate]
        pairs = [(row["validation_top1"], -row["validation_loss"]) for row in folds]
        mean[rate] = np.mean(pairs, axis=0).tolist()
    chosen = json.loads((whole / "chosen.json").read_bytes())
    assert chosen == {"learning_rate": max(mean, key=mean.get), "weight_decay": 0.0}

    def stop(done, total, note):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune("cut", progress=stop)
    for name in ("tuning.parquet", "chosen.json"):
        assert (tune("cut") / name).read_bytes() == (whole / name).read_bytes()


def test_a_point_at_which_the_loss_explodes_is_not_chosen(tune):
    grid = Grid(learning_rate=[1e30, 1e-9], weight_decay=[0.0])
    done = tune("one", CONFIG.model_copy(update={"grid": grid}))
    rows = pq.read_table(done / "tuning.parquet").to_pylist()
    exploded = [row["learning_rate"] for row in rows if row["validation_loss"] is None]
    assert 1e30 in exploded
    assert 1e-9 not in exploded
    assert json.loads((done / "chosen.json").read_bytes())["learning_rate"] == 1e-9
    grid = Grid(learning_rate=[1e30], weight_decay=[0.0])
    with pytest.raises(StageError, match=r"any point of recognition\.grid"):
        tune("none", CONFIG.model_copy(update={"grid": grid}))


def test_a_grid_is_a_node_on_which_every_scale_hangs(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("name: x\ncases: {format: phantom}\nselection: {scales: [0.5, 1.0]}\n")
    classes = ("a", "b")

    def hangs_on(*overrides):
        study = Study(load_config(path, list(overrides)), tmp_path / "root")
        return [
            {edge.node.name for edge in study.training(classes, *run, 0).inputs}
            for run in study.runs(classes)
            if run[1] == "synthetic"
        ]

    assert not any("tuning resnet18 synthetic" in names for names in hangs_on())
    given = hangs_on("recognition.grid.learning_rate=[0.001, 0.0001]")
    assert len(given) == 2
    assert all("tuning resnet18 synthetic" in names for names in given)


def test_a_wrong_grid_is_one_sentence(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("name: x\ncases: {source: a}\nrecognition: {grid: {learning_rate: [0]}}\n")
    with pytest.raises(InputError, match=r"recognition\.grid\.learning_rate"):
        load_config(path)
