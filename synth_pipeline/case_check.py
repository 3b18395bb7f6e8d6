"""What `cases check` finds: the import's own verdicts, and how many faces each photo shows."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from synth_pipeline import case_sources, cases, landmarks
from synth_pipeline.case_sources import SourcePhoto
from synth_pipeline.cases import Quarantined
from synth_pipeline.config import CasesConfig


@dataclass
class Checked:
    """What a source is good for; names are for the terminal of its owner only.

    Attributes:
        files: in the source.
        usable: become cases.
        quarantined: set aside, equal photos of one class too.
        faceless: usable, but no face was found; name and reason.
        crowded: usable, but several faces were found; the largest counts.
        notes: what was passed over or understood in some way, and what a run will say.
        refusal: why a run would not begin.
    """

    files: int
    usable: int = 0
    quarantined: list[Quarantined] = field(default_factory=list)
    faceless: list[Quarantined] = field(default_factory=list)
    crowded: list[Quarantined] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refusal: str = ""

    @property
    def lost(self) -> int:
        """Files that a run counts as lost; of equal photos in one class nothing is."""
        return sum(entry.reason != cases.DUPLICATE for entry in self.quarantined)

    @property
    def is_good(self) -> bool:
        """Whether nothing needs to be corrected."""
        return not (self.lost or self.faceless or self.refusal)

    def in_words(self) -> str:
        """The numbers in one line."""
        told = f"{self.files} files: {self.usable} usable, {self.lost} set aside"
        if twice := len(self.quarantined) - self.lost:
            told += f", {twice} the same as another of their class"
        if self.faceless or self.crowded:
            told += (
                f"; of the usable ones {len(self.faceless)} show no face and "
                f"{len(self.crowded)} several"
            )
        return told


def run(config: CasesConfig, *, seed: int, out_dir: Path, landmark_model: Path | None) -> Checked:
    """Import into a folder and look at every photo.

    Args:
        config: where the photos are.
        seed: of the study.
        out_dir: an empty folder; it will hold patients' faces, so whoever gives it removes it.
        landmark_model: finds the faces; without one nobody looks for any.

    Raises:
        InputError: the source is not laid out as `cases.format` says.
    """
    source = case_sources.look(config)
    checked = Checked(len(source.photos), notes=list(source.notes))
    sources: dict[str, SourcePhoto] = {}
    try:
        cases.run(config, photos=source.photos, seed=seed, out_dir=out_dir, sources=sources)
    except cases.TooFewClassesError as error:
        checked.quarantined, checked.usable = error.quarantined, error.cases
        checked.refusal = (
            "Fewer than two classes of cases.source have a usable photo, so a run would not begin."
        )
        return checked
    case_set = cases.load(out_dir)
    checked.quarantined, checked.usable = cases.quarantine(out_dir), len(case_set.cases)
    if landmark_model is not None:
        classes = {case.case_id: case.class_id for case in case_set.cases}
        looked = out_dir / "landmarks"
        looked.mkdir()
        landmarks.run(
            [(case.case_id, case.path) for case in case_set.cases],
            model=landmark_model,
            out_dir=looked,
            class_id="",
            real_photos=False,
        )
        _count_faces(checked, looked, classes, sources)
    return checked


def _count_faces(
    checked: Checked, looked: Path, classes: Mapping[str, str], sources: Mapping[str, SourcePhoto]
) -> None:
    """List the photos that show no face, or several."""
    table = pq.read_table(looked / "landmarks.parquet", columns=["image_id", "found", "faces"])
    with_face: Counter[str] = Counter(dict.fromkeys(classes.values(), 0))
    for row in table.to_pylist():
        class_id, photo = classes[row["image_id"]], sources[row["image_id"]]
        with_face[class_id] += row["found"]
        if not row["found"]:
            entry = Quarantined(photo.name, class_id, "no face was found")
            checked.faceless.append(entry)
        elif row["faces"] > 1:
            reason = f"shows {row['faces']} faces; the largest is taken"
            checked.crowded.append(Quarantined(photo.name, class_id, reason))
    checked.notes += [
        f"class {class_id}: no face was found in any of its photos, so a run leaves it out."
        for class_id, count in sorted(with_face.items())
        if not count
    ]
