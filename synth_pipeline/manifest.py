"""What an artifact is made of and holds: its recipe, its key, and the manifest that proves it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from synth_pipeline.json_files import parse_object

MANIFEST = "manifest.json"


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class Recipe:
    """All that decides an artifact's content; the key is its hash.

    Attributes:
        stage: the stage's name, also the folder's.
        label: whom it is for, such as a class id; shown to people, and part of the key.
        version: the stage's version, raised when its output changes for the same input.
        parameters: plain JSON values: the slice of the configuration, the seed, model revisions.
        inputs: name to content digest of what the stage reads.
        libraries: name to version of the libraries whose arithmetic shapes the result.
    """

    stage: str
    label: str
    version: int
    parameters: Mapping[str, Any]
    inputs: Mapping[str, str]
    libraries: Mapping[str, str]

    @cached_property
    def key(self) -> str:
        """32 hexadecimal digits: the artifact's folder name."""
        return hashlib.sha256(canonical_json(self.facts())).hexdigest()[:32]

    def facts(self) -> dict[str, Any]:
        """The attributes as they are; `asdict` copies them, which takes long in a large study."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class Artifact:
    """A published, verified folder.

    Attributes:
        digest: content digest over names and SHA-256 of all files (not over times or places).
        parts: digests of parts that other stages may hang on instead of on the whole.
    """

    stage: str
    key: str
    path: Path
    digest: str
    parts: Mapping[str, str]
    manifest: Mapping[str, Any]

    def reference(self) -> dict[str, str]:
        """What travels between tasks: small, and plain JSON."""
        return {"stage": self.stage, "key": self.key, "digest": self.digest}


@dataclass(frozen=True)
class Output:
    """What a stage's body returns: named digests of parts, and measurements kept for reports."""

    parts: Mapping[str, str] = field(default_factory=dict)
    measurements: Mapping[str, float] = field(default_factory=dict)


def describe(recipe: Recipe, folder: Path, output: Output) -> dict[str, Any]:
    """The manifest of a folder: every file with size and SHA-256, and a checksum of itself."""
    files = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": file_sha256(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {
        **recipe.facts(),
        "key": recipe.key,
        "files": files,
        "digest": _content_digest(files),
        "parts": dict(output.parts),
        "measurements": dict(output.measurements),
    }
    manifest["checksum"] = _checksum(manifest)
    return manifest


def parse(content: bytes) -> dict[str, Any] | None:
    """A manifest from its bytes; none if a byte was changed, or a file's name leads elsewhere."""
    try:
        manifest = parse_object(content)
    except ValueError:
        return None
    if manifest.get("checksum") != _checksum(manifest):
        return None
    # The checksum is no signature: whoever can write the store could name any file of ours.
    if not all(_lies_inside(name) for name in manifest["files"]):
        return None
    return manifest


def read_manifest(path: Path) -> dict[str, Any] | None:
    """A manifest from its file; none if it cannot be read or was changed."""
    try:
        return parse(path.read_bytes())
    except OSError:
        return None


def artifact_of(manifest: Mapping[str, Any], folder: Path) -> Artifact:
    """The artifact that a manifest describes, in its folder."""
    return Artifact(
        stage=manifest["stage"],
        key=manifest["key"],
        path=folder,
        digest=manifest["digest"],
        parts=manifest["parts"],
        manifest=manifest,
    )


def difference(manifest: Mapping[str, Any], folder: Path) -> str:
    """In which file a folder differs from its manifest, in words; empty if in none."""
    for name, known in manifest["files"].items():
        path = folder / name
        try:
            size_bytes = path.stat().st_size
            if size_bytes != known["bytes"]:
                return f"{name} has {size_bytes} bytes instead of {known['bytes']}"
            if file_sha256(path) != known["sha256"]:
                return f"{name} was changed"
        except FileNotFoundError:
            return f"{name} is gone"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return ""


def _content_digest(files: Mapping[str, Mapping[str, Any]]) -> str:
    pairs = [[name, files[name]["sha256"]] for name in sorted(files)]
    return hashlib.sha256(canonical_json(pairs)).hexdigest()


def _checksum(manifest: Mapping[str, Any]) -> str:
    body = {name: value for name, value in manifest.items() if name != "checksum"}
    return hashlib.sha256(canonical_json(body)).hexdigest()


def _lies_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
