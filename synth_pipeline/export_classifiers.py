"""Classifiers that `timm.create_model("local-dir:FOLDER", pretrained=True)` builds and loads."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import jinja2
import pyarrow.parquet as pq
import yaml

from synth_pipeline.progress import Progress
from synth_pipeline.study import Study
from synth_pipeline.study_recognition import run_label


def write(
    study: Study,
    folder: Path,
    classes: Sequence[str],
    runs: Sequence[str],
    cards: jinja2.Environment,
    progress: Progress,
) -> int:
    """Write `<run>/fold-<n>/` with `config.json`, `model.safetensors` and a card.

    The weights are the stored bytes; the configuration is written by timm, with the labels and the
    input that the fold was trained with.

    Args:
        study: with these runs trained and scored.
        folder: to be made.
        classes: the order of the heads' outputs.
        runs: by their labels, such as "resnet18 synthetic 48".
        cards: where the card's template is.
        progress: told after each fold.

    Returns:
        How many folds were written.
    """
    settings = study.config.recognition
    names = {name: study.case_set.class_name(name) for name in classes}
    table = study.graph.artifact(study.scores(classes)).path / "scores.parquet"
    scores = pq.read_table(table).to_pylist()
    written = 0
    for run in study.runs(classes):
        label = run_label(*run)
        if label not in runs:
            continue
        backbone, regime, scale = run
        rows = [
            row
            for row in scores
            if (row["backbone"], row["regime"], row["scale"]) == (backbone, regime, scale)
        ]
        for fold in range(settings.folds):
            stored = study.graph.artifact(study.training(classes, *run, fold)).path
            target = folder / label.replace(" ", "-") / f"fold-{fold + 1}"
            target.mkdir(parents=True)
            shutil.copyfile(stored / "model.safetensors", target / "model.safetensors")
            _write_config(study, backbone, names, target / "config.json")
            header = {
                "license": "other",
                "license_name": "not-chosen-yet",
                "library_name": "timm",
                "pipeline_tag": "image-classification",
                "tags": ["timm", "image-classification", "rare-diseases"],
            }
            card = cards.get_template("classifier_card.md.j2").render(
                header=yaml.safe_dump(header, sort_keys=False),
                study=study.config.name,
                label=label,
                fold=fold,
                facts=json.loads((stored / "fold.json").read_bytes()),
                settings=settings,
                regime=regime,
                backbone=backbone,
                names=names,
                rows=rows,
                phantoms=study.config.cases.format == "phantom",
            )
            (target / "README.md").write_text(card, encoding="utf-8")
            written += 1
            progress(written, len(runs) * settings.folds, "folds")
    return written


def _write_config(study: Study, backbone: str, names: dict[str, str], file: Path) -> None:
    """Write the network's description as timm does, which builds it again from it."""
    from timm.models._hub import save_config_for_hf

    from synth_pipeline.fold_training import recogniser

    settings = study.config.recognition
    model, norm = recogniser(settings, backbone, len(names), pretrained=False)
    save_config_for_hf(
        model,
        str(file),
        model_config={
            "label_names": list(names),
            "label_descriptions": names,
            # What timm knows of the published weights, which these are not.
            "pretrained_cfg": {"license": "other", "tag": ""},
        },
        data_config={
            "input_size": (3, settings.size_px, settings.size_px),
            "mean": norm.mean,
            "std": norm.deviation,
            "interpolation": "bicubic",
            # Pictures are padded to squares, never cropped.
            "crop_pct": 1.0,
            "crop_mode": "border",
        },
    )
