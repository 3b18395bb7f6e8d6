"""What a study said each time it was finished, so that the next time can be compared with it.

`studies/<name>/history/<number>/` holds `study.json` (when, the scores' content digest, photos of
each class), `scores.parquet` and `outcomes.parquet` (whether each held-out photo was recognised).
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from synth_pipeline import gain
from synth_pipeline.errors import InputError
from synth_pipeline.gain import Gain
from synth_pipeline.json_files import parse_object
from synth_pipeline.store import write_in_one_step
from synth_pipeline.study import Study

_STUDY, _SCORES, _OUTCOMES = "study.json", "scores.parquet", "outcomes.parquet"


@dataclass(frozen=True)
class Changed:
    """A class whose photos are others than in the last study; (training, held-out) photos."""

    class_id: str
    before: tuple[int, int]
    now: tuple[int, int]


@dataclass(frozen=True)
class Since:
    """What changed since the last study that gave other scores.

    Attributes:
        finished: when that was, UTC.
        gains: of each regime.
        changed: the classes whose photos changed; (0, 0) where a class was not there.
        settings: whether the configuration was changed as well, so that not all is the photos'.
    """

    finished: str
    gains: tuple[Gain, ...]
    changed: tuple[Changed, ...]
    settings: bool


def since(study: Study, classes: Sequence[str], settings: str) -> Since | None:
    """Compare a study with the last one under its name that gave other scores.

    Args:
        study: none is told while its scores are not made.
        classes: the classes that were finished.
        settings: the configuration as it is shown.

    Raises:
        InputError: what is kept of the last study is damaged.
    """
    entries = _entries(study.folder)
    node = study.scores(classes)
    if not entries or study.graph.resolve(node).looked.status != "cached":
        return None
    artifact = study.graph.artifact(node)
    for folder in reversed(entries):
        try:
            then = parse_object((folder / _STUDY).read_bytes())
            if then["scores"] == artifact.digest:
                continue
            return Since(
                finished=str(then["finished"]),
                gains=tuple(
                    gain.gains(
                        pq.read_table(folder / _OUTCOMES),
                        gain.outcomes(pq.read_table(artifact.path / "predictions.parquet")),
                        seed=study.config.seed,
                    )
                ),
                changed=_changed(then["classes"], _photos(study, classes)),
                settings=then["settings"] != _digest(settings),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException):
            raise InputError(
                f"{folder} is damaged; remove that folder, and an older study is compared with."
            ) from None
    return None


def keep(study: Study, classes: Sequence[str], settings: str) -> None:
    """Keep what a finished study says, unless the last entry says the same."""
    artifact = study.graph.artifact(study.scores(classes))
    place = study.folder / "history"
    place.mkdir(mode=0o700, exist_ok=True)
    beside = place / ".new"
    shutil.rmtree(beside, ignore_errors=True)
    entries = _entries(study.folder)
    if entries and _scores_of(entries[-1]) == artifact.digest:
        return
    beside.mkdir(mode=0o700)
    stream = pa.BufferOutputStream()
    pq.write_table(gain.outcomes(pq.read_table(artifact.path / "predictions.parquet")), stream)
    write_in_one_step(beside / _OUTCOMES, stream.getvalue().to_pybytes())
    write_in_one_step(beside / _SCORES, (artifact.path / _SCORES).read_bytes())
    told = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "scores": artifact.digest,
        "settings": _digest(settings),
        "classes": _photos(study, classes),
    }
    write_in_one_step(beside / _STUDY, json.dumps(told, indent=1).encode())
    number = int(entries[-1].name) + 1 if entries else 1
    beside.rename(place / f"{number:04d}")


def as_parameters(told: Since) -> dict[str, Any]:
    """As plain JSON values, for a key."""
    return json.loads(json.dumps(asdict(told)))


def in_words(told: Since) -> list[str]:
    """What people are told at the end of a run, a line each."""
    lines = []
    for each in told.gains:
        on = "the same" if each.paired else "not the same"
        lines.append(
            f"Top-1 {each.regime:<9} {100 * each.change:+.1f} points since {_day(told.finished)} "
            f"(95 % interval {100 * each.low:+.1f} to {100 * each.high:+.1f}; {on} "
            f"{each.photos} held-out photos)"
        )
    if told.changed:
        lines.append("Changed: " + ", ".join(_one(each) for each in told.changed))
    if told.settings:
        lines.append("The configuration changed as well.")
    return lines


def _one(changed: Changed) -> str:
    if changed.before == (0, 0):
        return f"{changed.class_id} (new)"
    if changed.now == (0, 0):
        return f"{changed.class_id} (gone)"
    parts = [
        f"{now - before:+d} {what}"
        for what, before, now in zip(
            ("training", "held-out"), changed.before, changed.now, strict=True
        )
        if now != before
    ]
    return f"{changed.class_id} ({', '.join(parts) or 'other photos'})"


def _day(finished: str) -> str:
    return finished[:16].replace("T", " ")


def _entries(folder: Path) -> list[Path]:
    return sorted(p for p in (folder / "history").glob("[0-9]*") if p.is_dir())


def _scores_of(entry: Path) -> str:
    try:
        return str(parse_object((entry / _STUDY).read_bytes())["scores"])
    except (OSError, ValueError, KeyError):
        return ""


def _photos(study: Study, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Of each class how many photos there are, and a digest that changes with them."""
    held_out: Counter[str] = Counter()
    ids: dict[str, list[str]] = {name: [] for name in classes}
    for case in study.case_set.cases:
        if case.class_id in ids:
            ids[case.class_id].append(f"{case.case_id} {case.split}")
            held_out[case.class_id] += case.split == "test"
    return {
        name: {
            "train": len(found) - held_out[name],
            "test": held_out[name],
            "photos": _digest("\n".join(sorted(found))),
        }
        for name, found in ids.items()
    }


def _changed(
    before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]
) -> tuple[Changed, ...]:
    nothing = {"train": 0, "test": 0, "photos": ""}
    found = []
    for name in sorted({*before, *now}):
        old, new = before.get(name, nothing), now.get(name, nothing)
        if old["photos"] != new["photos"]:
            found.append(Changed(name, (old["train"], old["test"]), (new["train"], new["test"])))
    return tuple(found)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
