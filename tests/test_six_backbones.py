"""The paper's six at their real sizes, with random weights: two steps, and an evaluation.

Slow (about three minutes on two cores), so it runs when asked for: `make test-slow`.
"""

import json

import pyarrow.parquet as pq
import pytest

from synth_pipeline import evaluation, training
from synth_pipeline.config import load_config
from synth_pipeline.recognition_data import Example
from tests.command_line import ROOT

BACKBONES = [
    (name, backbone)
    for name in ("rdface", "rdface-published")
    for backbone in load_config(
        ROOT / "configs" / f"{name}.yaml", ["cases.source=."]
    ).recognition.backbones
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backbone"), BACKBONES)
def test_two_steps_and_an_evaluation(name, backbone, phantom_files, tmp_path):
    config = load_config(ROOT / "configs" / f"{name}.yaml", ["cases.source=."]).recognition
    small = {"pretrained": False, "folds": 2, "epochs": 1, "batch_size": 2}
    config = config.model_copy(update=small)
    examples = [
        Example(path, class_id, f"{class_id}/{n}", False)
        for class_id, paths in phantom_files.items()
        for n, path in enumerate(paths[:3])
    ]
    who = {"backbone": backbone, "classes": sorted(phantom_files)}
    folders = []
    for fold in range(2):
        folders.append(tmp_path / f"fold{fold}")
        folders[-1].mkdir()
        training.run(config, examples=examples, fold=fold, seed=0, out_dir=folders[-1], **who)
    # Nine pictures in two folds: four or five are learned from, in two batches at least.
    assert json.loads((folders[0] / "fold.json").read_bytes())["training_images"] >= 4
    out_dir = tmp_path / "evaluated"
    out_dir.mkdir()
    evaluation.run(
        config,
        regime="real",
        scale=None,
        fold_dirs=folders,
        test=[(f"case-{c}", c, paths[5]) for c, paths in phantom_files.items()],
        out_dir=out_dir,
        **who,
    )
    rows = pq.read_table(out_dir / "predictions.parquet").to_pylist()
    assert len(rows) == 2 * len(phantom_files)
    assert all(abs(sum(row["probabilities"]) - 1) < 1e-4 for row in rows)
