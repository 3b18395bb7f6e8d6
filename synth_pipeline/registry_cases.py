"""A case set out of the registry: the cases as they were accepted, each on its side."""

import hashlib
from dataclasses import asdict
from pathlib import Path

from synth_pipeline import cases
from synth_pipeline.config import CasesConfig
from synth_pipeline.errors import InputError
from synth_pipeline.registry import Entry, Registry
from synth_pipeline.store import canonical_json, file_sha256


def registry_of(config: CasesConfig, root: Path, landmark_model: Path | None = None) -> Registry:
    """The registry that `cases.source` names; `<root>/registry` where it names none.

    Args:
        config: with the place.
        root: of the studies.
        landmark_model: see `Registry`; needed only to add photos.
    """
    folder = Path(config.source).absolute() if config.source else root / "registry"
    return Registry(folder, landmark_model)


def chosen(config: CasesConfig, registry: Registry) -> list[Entry]:
    """The entries of the study, sorted by class and id.

    Raises:
        InputError: there is no case, or the registry is damaged.
    """
    if not registry.entries:
        raise InputError(
            f"The case registry {registry.folder} holds no case; "
            "take some in with `synth-pipeline cases ingest CONFIG --inbox DIR`."
        )
    names = sorted({entry.class_name for entry in registry.entries})[: config.max_classes]
    found = [entry for entry in registry.entries if entry.class_name in names]
    return sorted(found, key=lambda entry: (entry.class_id, entry.case_id))


def trainable(config: CasesConfig, registry: Registry) -> list[str]:
    """Ids of the classes with a training photo."""
    return sorted({e.class_id for e in chosen(config, registry) if e.split == "train"})


def digest(config: CasesConfig, registry: Registry) -> str:
    """A hash of all that the study reads of the registry; of no time, so that order is nothing."""
    rows = [
        {name: value for name, value in asdict(entry).items() if name not in ("when", "arrival")}
        for entry in chosen(config, registry)
    ]
    return hashlib.sha256(canonical_json(rows)).hexdigest()


def run(config: CasesConfig, *, registry: Registry, out_dir: Path) -> dict[str, float]:
    """Write `images/`, `cases.parquet` and an empty `quarantine.parquet`.

    What was set aside when photos arrived lies in the registry's own quarantine.

    Args:
        config: for `max_classes`.
        registry: whose photos are copied, each checked.
        out_dir: an empty folder.

    Raises:
        InputError: a photo was changed or is gone; or fewer than two classes have one to train on.
    """
    entries = chosen(config, registry)
    if len(trainable(config, registry)) < 2:
        raise InputError(
            f"The case registry {registry.folder} has training photos of fewer than two classes; "
            "take more in with `synth-pipeline cases ingest CONFIG --inbox DIR`."
        )
    (out_dir / "images").mkdir()
    rows = []
    for entry in entries:
        file = f"images/{entry.case_id}.png"
        try:
            (out_dir / file).write_bytes(registry.image(entry).read_bytes())
            intact = file_sha256(out_dir / file) == entry.sha256
        except FileNotFoundError:
            intact = False
        if not intact:
            raise InputError(
                f"The case registry's photo {registry.image(entry)} was changed or is gone; "
                "bring it back from a backup."
            )
        rows.append(
            {
                "case_id": entry.case_id,
                "class_id": entry.class_id,
                "class_name": entry.class_name,
                "subject_id": entry.subject_id,
                "split": entry.split,
                "file": file,
                "width_px": entry.width_px,
                "height_px": entry.height_px,
                "sha256": entry.sha256,
            }
        )
    cases.write_tables(rows, [], out_dir)
    return {"photos": len(rows), "cases": len(rows), "quarantined": 0}
