"""Synthetic images as a folder that Hugging Face's `datasets` loads (its ImageFolder layout)."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import jinja2
import pyarrow.parquet as pq
import yaml

from synth_pipeline import selection, synthetic_set
from synth_pipeline.places import without_places
from synth_pipeline.progress import Progress
from synth_pipeline.study import Study


def write(
    study: Study,
    folder: Path,
    classes: Sequence[str],
    chosen: Sequence[str],
    cards: jinja2.Environment,
    progress: Progress,
) -> int:
    """Write `train/<class>/<index>.png`, `train/metadata.jsonl` and the card.

    Images without a face and those that the copy audit withheld or could not read stay behind. The
    others are the stored bytes, so that what each says of itself (that it is synthetic, and its
    signature if it has one) comes along.

    Args:
        study: with its images made, ranked and audited.
        folder: to be made.
        classes: of the study.
        chosen: of which images are exported.
        cards: where the card's template is.
        progress: told after each image.

    Returns:
        How many images were written.
    """
    artifact = study.graph.artifact
    samples = {
        (name, sample.index): sample
        for name in classes
        for sample in synthetic_set.load(artifact(study.sampling(name)).path)
    }
    copies_dir = artifact(study.copies(classes)).path
    picks = selection.eligible_picks(
        artifact(study.ranking(classes)).path,
        copies_dir,
        {place: sample.sha256 for place, sample in samples.items()},
    )
    exported = [pick for name in chosen for pick in sorted(picks[name], key=lambda p: p.index)]
    names = {name: study.case_set.class_name(name) for name in chosen}
    rows = []
    for done, pick in enumerate(exported, start=1):
        file = Path(pick.class_id) / f"{pick.index:05d}.png"
        target = folder / "train" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        sample = samples[pick.class_id, pick.index]
        shutil.copyfile(sample.path, target)
        rows.append(
            {
                "file_name": file.as_posix(),
                "label": pick.class_id,
                "class_name": names[pick.class_id],
                "synthetic": True,
                "prompt": sample.prompt,
                "seed": sample.seed,
                "index": pick.index,
                "cosine": pick.cosine,
                "true_class_rank": pick.rank,
            }
        )
        progress(done, len(exported), "images")
    if not rows:
        return 0
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "train" / "metadata.jsonl").write_text(lines, encoding="utf-8")
    audited = pq.read_table(copies_dir / "copies.parquet", columns=["class_id", "copy"]).to_pylist()
    withheld = Counter(row["class_id"] for row in audited if row["copy"] is not False)
    generated = Counter(row["class_id"] for row in audited)
    card = cards.get_template("dataset_card.md.j2").render(
        header=yaml.safe_dump(_header(), sort_keys=False),
        name=study.config.name,
        images=len(rows),
        base_model=study.base.identity,
        base_name=without_places(study.config).dreambooth.base_model,
        prompt=study.config.dreambooth.instance_prompt,
        method=study.config.dreambooth.method,
        phantoms=study.config.cases.format == "phantom",
        photo_sentences=study.photo_sentences(chosen),
        signed=study.config.sampling.c2pa_certificate is not None,
        classes=[
            {
                "id": name,
                "name": names[name],
                "photos": len(study.case_set.train(name)),
                "faces": study.faces_in_photos(name).with_face,
                "generated": generated[name],
                "withheld": withheld[name],
                "exported": len(picks[name]),
            }
            for name in chosen
        ],
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    return len(rows)


def _header() -> dict:
    """What the hub and `datasets` read first."""
    files = {"split": "train", "path": "train/**"}
    return {
        "license": "other",
        "license_name": "not-chosen-yet",
        "task_categories": ["image-classification"],
        "tags": ["synthetic", "faces", "rare-diseases"],
        "configs": [{"config_name": "default", "data_files": [files]}],
    }
