"""What `cases check` finds: the import's own verdicts, and how many faces each photo shows."""

from collections.abc import Sequence
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
        cases.run(
            config,
            photos=source.photos,
            seed=seed,
            out_dir=out_dir,
            landmark_model=landmark_model,
            sources=sources,
        )
    except cases.TooFewClassesError as error:
        checked.quarantined, checked.usable = error.quarantined, error.cases
        checked.refusal = (
            "Fewer than two classes of cases.source have a usable photo, so a run would not begin."
        )
        return checked
    case_set = cases.load(out_dir)
    checked.quarantined, checked.usable = cases.quarantine(out_dir), len(case_set.cases)
    if landmark_model is not None:
        look_for_faces(
            checked,
            [(c.case_id, c.path, c.class_id, sources[c.case_id].name) for c in case_set.cases],
            landmark_model=landmark_model,
            out_dir=out_dir,
        )
    return checked


def look_for_faces(
    checked: Checked,
    photos: Sequence[tuple[str, Path, str, str]],
    *,
    landmark_model: Path,
    out_dir: Path,
) -> None:
    """List the photos that show no face, or several, and the classes that show none.

    Args:
        checked: gets the lists.
        photos: of each its id, its sanitised file, its class, and its name for the owner.
        landmark_model: finds the faces.
        out_dir: where the table of landmarks is written.
    """
    folder = out_dir / "landmarks"
    folder.mkdir()
    landmarks.run(
        [(case_id, path) for case_id, path, _, _ in photos],
        model=landmark_model,
        out_dir=folder,
        class_id="",
        real_photos=False,
        # As a run does, for which a class without a face is an error.
        search=True,
    )
    table = pq.read_table(folder / "landmarks.parquet", columns=["found", "faces"])
    with_face = dict.fromkeys(sorted(class_id for _, _, class_id, _ in photos), 0)
    for row, (_, _, class_id, name) in zip(table.to_pylist(), photos, strict=True):
        with_face[class_id] += row["found"]
        if not row["found"]:
            checked.faceless.append(Quarantined(name, class_id, "no face was found"))
        elif row["faces"] > 1:
            reason = f"shows {row['faces']} faces; the largest is taken"
            checked.crowded.append(Quarantined(name, class_id, reason))
    checked.notes += [
        f"class {class_id}: no face was found in any of its photos, so a run leaves it out."
        for class_id, count in with_face.items()
        if not count
    ]
