"""Places on this machine that a configuration names: files and folders.

Which photos, weights and certificates a stage reads is in its key by their content, so a place may
be written in any way.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from synth_pipeline.config import StudyConfig

_EMBEDDED = "embedded"
_HIDDEN = "(not shown)"


def from_home(place: str) -> str:
    """A place with `~` replaced by the home folder, as a shell does it; others stay as they are."""
    if not place.startswith("~"):
        return place
    try:
        return str(Path(place).expanduser())
    except RuntimeError:
        return place  # nobody has this name, and a folder may


def with_absolute_places(config: "StudyConfig") -> "StudyConfig":
    """A configuration that means the same in every folder of this machine."""
    return _changed(config, model=_absolute, other=_absolute)


def without_places(config: "StudyConfig") -> "StudyConfig":
    """A configuration to be shown: of what holds a model, only its name is left."""
    return _changed(config, model=_name, other=lambda _: _HIDDEN)


def _changed(
    config: "StudyConfig", model: Callable[[str], str], other: Callable[[str], str]
) -> "StudyConfig":
    """Change the places of models and weights in one way, and all other places in another."""
    cases, tuning = config.cases, config.dreambooth
    drawing, recognition = config.sampling, config.recognition
    changes: dict[str, dict[str, str]] = {"cases": {}, "dreambooth": {}, "sampling": {}}
    if cases.source:
        changes["cases"]["source"] = other(cases.source)
    if cases.inbox and "://" not in cases.inbox:
        changes["cases"]["inbox"] = other(cases.inbox)
    for name in ("base_model", "base_vae"):
        # What is not here is a hub's id.
        place = getattr(tuning, name)
        if place and place != _EMBEDDED and Path(place).exists():
            changes["dreambooth"][name] = model(place)
    for name in ("c2pa_certificate", "c2pa_key"):
        if place := getattr(drawing, name):
            changes["sampling"][name] = other(place)
    if isinstance(recognition.pretrained, str) and recognition.pretrained != _EMBEDDED:
        changes["recognition"] = {"pretrained": model(recognition.pretrained)}
    return config.model_copy(
        update={
            section: getattr(config, section).model_copy(update=values)
            for section, values in changes.items()
        }
    )


def _absolute(place: str) -> str:
    return str(Path(place).absolute())


def _name(place: str) -> str:
    return f"(on this machine) {Path(place).absolute().name}"
