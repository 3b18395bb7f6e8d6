"""How many of a class's training photos show a face, several, or none; and what follows from it."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class FacesInPhotos:
    """What the search for faces found in the training photos of one class.

    Attributes:
        photos: how many there are.
        with_face: in how many a face was found.
        several: how many show more than one; the largest face of each is taken.
        by_search: how many of the faces were missed by the first look, because they are small or
            turned, and found by searching.
    """

    photos: int
    with_face: int
    several: int
    by_search: int

    @classmethod
    def measured(cls, measurements: Mapping[str, float]) -> "FacesInPhotos":
        """From what `landmarks.run` returned, as the artifact's manifest keeps it."""
        return cls(
            photos=int(measurements["images"]),
            with_face=int(measurements["found"]),
            several=int(measurements["several"]),
            by_search=int(measurements["by_search"]),
        )

    @property
    def without_face(self) -> int:
        """In how many photos no face was found."""
        return self.photos - self.with_face

    def facts(self) -> str:
        """What is unusual, in words; nothing where each photo shows one face at first sight."""
        told = []
        if self.without_face:
            told.append(f"no face was found in {self.without_face} of {_photos(self.photos)}")
        if self.several:
            told.append(
                f"{self.several} of {_photos(self.photos)} "
                f"{'shows' if self.several == 1 else 'show'} several people (the largest face is "
                "taken)"
            )
        if self.by_search:
            told.append(
                f"{self.by_search} of {self.with_face} faces "
                f"{'was' if self.by_search == 1 else 'were'} found only by searching: small, or "
                "turned"
            )
        return "; ".join(told)

    def consequence(self, morphs: bool) -> str:
        """What the fine-tuning does with photos without a face; nothing where there is none.

        Args:
            morphs: whether the study learns from morphs (`dreambooth.morphs`).
        """
        if not self.without_face:
            return ""
        if not morphs:
            return (
                "The fine-tuning learns from the photos without a face too; remove them, or set "
                "dreambooth.morphs to true, which leaves them out."
            )
        if self.with_face < 2:
            return (
                "Fewer than two photos show a face, so there is nothing to morph: the fine-tuning "
                "learns from all photos, those without a face too."
            )
        return "The fine-tuning leaves out the photos without a face: no morph is made of them."

    def learned_from(self, morphs: bool, kind: str) -> str:
        """What the fine-tuning learns from, such as "morphs of 6 real photos".

        Args:
            morphs: whether the study learns from morphs (`dreambooth.morphs`).
            kind: what the photos are called, in the plural.
        """
        if morphs and self.with_face > 1:
            return f"morphs of {self.with_face} {kind}"
        return f"{self.photos} {kind}"

    def sentence(self, morphs: bool) -> str:
        """Facts and consequence as one line of text; nothing where nothing is unusual."""
        facts = self.facts()
        if not facts:
            return ""
        return f"{facts[0].upper()}{facts[1:]}. {self.consequence(morphs)}".strip()


def _photos(count: int) -> str:
    return "1 training photo" if count == 1 else f"{count} training photos"
