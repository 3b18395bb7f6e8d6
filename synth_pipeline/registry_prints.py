"""The fingerprints of a registry's photos, each made once: thousands are compared with a new one.

A cache in the registry's folder: it may be deleted at any time, and is filled again.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from synth_pipeline.fingerprints import Fingerprints, fingerprints, joined
from synth_pipeline.store import write_in_one_step

#: Raise it when `fingerprints` gives something else for the same photo.
_VERSION = 1


class RegistryPrints:
    """Fingerprints of the registered photos, in the order in which they are given.

    Args:
        folder: of the cache; made, with mode 700, when it is first written.
        landmark_model: see `fingerprints`.
    """

    def __init__(self, folder: Path, landmark_model: Path | None) -> None:
        # Looked at without a landmark model and with one are two things.
        self.folder = folder / f"{_VERSION}-{'faces' if landmark_model else 'pictures'}"
        self._landmark_model = landmark_model
        self._known: Fingerprints | None = None
        self._newer: list[Fingerprints] = []

    def of(self, photo: Path) -> Fingerprints:
        """Of one photo that is not registered yet.

        Raises:
            StageError: it cannot be read, or no worker can look for faces.
        """
        return fingerprints([photo], self._landmark_model)

    def registered(self, photos: Sequence[Path]) -> Fingerprints:
        """Of all registered photos.

        Args:
            photos: all of them; those of the call before, and what was added since.

        Raises:
            StageError: a photo cannot be read, or no worker can look for faces.
        """
        if self._known is None:
            self._known = self._looked_up(photos)
        assert len(self._known) + len(self._newer) == len(photos)
        return joined([self._known, *self._newer])

    def add(self, photo: Path, prints: Fingerprints) -> None:
        """Keep those of a photo that was registered now."""
        self._write(photo, prints)
        if self._known is not None:
            self._newer.append(prints)

    def _looked_up(self, photos: Sequence[Path]) -> Fingerprints:
        cached = {photo: self._read(photo) for photo in photos}
        found = {photo: prints for photo, prints in cached.items() if prints is not None}
        missing = [photo for photo in photos if photo not in found]
        made = fingerprints(missing, self._landmark_model)
        for place, photo in enumerate(missing):
            found[photo] = made.rows(slice(place, place + 1))
            self._write(photo, found[photo])
        return joined([found[photo] for photo in photos])

    def _read(self, photo: Path) -> Fingerprints | None:
        try:
            with np.load(self._place(photo), allow_pickle=False) as stored:
                return Fingerprints(*(stored[name] for name in Fingerprints.__dataclass_fields__))
        except Exception:
            # Missing, cut short or changed: numpy raises many kinds, and the photo is still there.
            return None

    def _write(self, photo: Path, prints: Fingerprints) -> None:
        for folder in (self.folder.parent, self.folder):
            folder.mkdir(mode=0o700, exist_ok=True)
        stream = io.BytesIO()
        np.savez(stream, **{name: getattr(prints, name) for name in prints.__dataclass_fields__})
        write_in_one_step(self._place(photo), stream.getvalue())

    def _place(self, photo: Path) -> Path:
        return self.folder / f"{photo.stem}.npz"
