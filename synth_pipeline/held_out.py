"""Whether a study will have held-out photos, found before anything is trained."""

from collections import Counter
from collections.abc import Iterable, Set
from contextlib import suppress

from synth_pipeline import registry_cases
from synth_pipeline.case_sources import SourcePhoto
from synth_pipeline.photos import UnusablePhotoError, sanitise
from synth_pipeline.study import Study

_NONE = "No photo is held out, so no recogniser can be evaluated"
_OR = "or stop before the training with `run --until selection`"


def none_held_out(study: Study) -> str | None:
    """Why no photo is held out, with what to do; none where some are or may be.

    Before the photos are imported, what their source says counts: a class can only lose photos
    then, so what is said of it stays true.
    """
    settings = study.config.cases
    imported = study.is_made(study.cases())
    if settings.format == "phantom":
        if (imported and study.case_set.test()) or study.phantoms.test_per_class:
            return None
        return f"{_NONE}: raise cases.phantom.test_per_class, {_OR}."
    if settings.format == "registry":
        if any(entry.split == "test" for entry in registry_cases.chosen(settings, study.registry)):
            return None
        return f"{_NONE}: take in photos of more persons with `synth-pipeline cases ingest`, {_OR}."
    photos = study.photos
    if imported:
        if study.case_set.test():
            return None
        if any(photo.split == "test" for photo in photos):
            return (
                f"{_NONE}: none of the photos with split test can be used; "
                "`synth-pipeline cases check CONFIG` says why."
            )
        persons = {(case.class_id, case.subject_id) for case in study.case_set.cases}
    else:
        if any(photo.split == "test" for photo in photos):
            return None
        persons = {(photo.class_name, photo.subject or str(photo.path)) for photo in photos}
        stated = {(p.class_name, p.subject or str(p.path)) for p in photos if p.split}
        if settings.test_fraction > 0 and _share_a_class(persons - stated):
            return None
        if not _two_classes_are_usable(photos):
            return None  # what is worse, and the import says it
    if not _share_a_class(persons):
        return (
            f"{_NONE}: every class has photos of one person only, which are trained on; add photos "
            f"of a second person to the classes, {_OR}."
        )
    if all(photo.split for photo in photos):
        return f'{_NONE}: write "test" into the column split for some of the photos, {_OR}.'
    return f"{_NONE}: raise cases.test_fraction above 0 (0.25 is usual), {_OR}."


def _share_a_class(persons: Set[tuple[str, str]]) -> bool:
    """Whether two of these (class, person) are of one class."""
    return any(count > 1 for count in Counter(name for name, _ in persons).values())


def _two_classes_are_usable(photos: Iterable[SourcePhoto]) -> bool:
    """Whether two classes have a photo that can be decoded; looks no further than these."""
    usable: set[str] = set()
    for photo in photos:
        if photo.class_name not in usable:
            with suppress(UnusablePhotoError):
                sanitise(photo.path)
                usable.add(photo.class_name)
        if len(usable) == 2:
            return True
    return False
