"""A photo in the source, as the folder or the table tells of it, before anything is decoded."""

from dataclasses import dataclass, field
from pathlib import Path

from synth_pipeline.class_names import printable

#: Names of folders and values of a column that say on which side of a split photos are.
_SIDES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "holdout", "held-out", "heldout"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
}


@dataclass(frozen=True)
class SourcePhoto:
    """A file in the source that claims to be a case.

    Attributes:
        subject: the person, where the source tells; none makes each photo a person of its own.
        split: `train` or `test` where the source decides it.
        fault: why it must not be opened, in words that name no file; none if it may.
        below: the folders between the class's and the file, as they are.
    """

    path: Path
    class_name: str
    subject: str | None = None
    split: str | None = None
    fault: str | None = None
    below: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Where the file lies in its class's folder, for its owner; every terminal can show it."""
        return printable("/".join((*self.below, self.path.name)))


@dataclass(frozen=True)
class Source:
    """What a source holds.

    Attributes:
        photos: sorted by class and path.
        notes: sentences about what was passed over or understood in some way; none names a file.
    """

    photos: list[SourcePhoto]
    notes: list[str] = field(default_factory=list)


def side_of(word: str) -> str | None:
    """`train`, `test` or `val`, if that is what a folder or a value says."""
    return _SIDES.get(word.strip().casefold())
