"""Content-addressed artifacts: key, publish atomically, verify. The only writer of stage outputs.

An artifact is a folder `store/<stage>/<key>/`. Its `manifest.json` is written last, so a folder
that has one is complete; it names every file with size and SHA-256, and itself carries a checksum,
so that a changed byte anywhere is found. A folder still being made lies beside, under a name that
begins with a dot, and is held by a kernel lock: what a killed process leaves is free at once.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from synth_pipeline.errors import InputError, SynthPipelineError

MANIFEST = "manifest.json"


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_in_one_step(path: Path, content: bytes) -> None:
    """Write a file that is seen whole or not at all; one that is the same is left alone."""
    if path.exists() and path.read_bytes() == content:
        return
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    Path(beside).replace(path)
    _fsync(path.parent)


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

    @property
    def key(self) -> str:
        """32 hexadecimal digits: the artifact's folder name."""
        return hashlib.sha256(canonical_json(asdict(self))).hexdigest()[:32]


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


@dataclass(frozen=True)
class Looked:
    """What lies under a key.

    Attributes:
        status: `cached` (verified), `missing`, or `damaged` (a file is gone or changed).
        artifact: set when `cached`; also when `damaged` but the manifest is intact, so that one
            can tell what the content was.
        reason: why it is not cached, in words.
    """

    status: Literal["cached", "missing", "damaged"]
    artifact: Artifact | None = None
    reason: str = ""


#: Numbers of the recipes to make and a folder for each, to an output or an error for each.
TogetherBody = Callable[[Sequence[int], Sequence[Path]], Sequence[Output | SynthPipelineError]]


class Store:
    """Artifacts under one root folder, private to its owner (it holds patients' faces).

    Args:
        root: folder of the store; made, with mode 700, when the first artifact is published.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        # Each artifact is read and hashed once in a process, however many stages ask for it.
        self._verified: dict[tuple[str, str], Looked] = {}

    def look(self, recipe: Recipe) -> Looked:
        """Verify what lies under the recipe's key; writes nothing."""
        place = (recipe.stage, recipe.key)
        if place not in self._verified:
            self._verified[place] = self._verify(*place)
        return self._verified[place]

    def make(self, recipe: Recipe, body: Callable[[Path], Output]) -> tuple[Artifact, bool]:
        """Return the recipe's artifact, running `body` on an empty folder if it is not there.

        Args:
            body: writes the stage's files into the folder it is given.

        Returns:
            The artifact, and whether `body` was run.

        Raises:
            InputError: the store cannot be written (a full disk, a read-only folder).
        """
        made = self.make_together([recipe], lambda _, folders: [body(folders[0])])[0]
        assert not isinstance(made, SynthPipelineError), "the body of one raises its error"
        return made

    def make_together(
        self, recipes: Sequence[Recipe], body: TogetherBody
    ) -> list[tuple[Artifact, bool] | SynthPipelineError]:
        """Make several artifacts in one run of `body`, each published on its own.

        Args:
            recipes: those that are there already are left out of the run.
            body: gets the numbers of the recipes to make, and an empty folder for each; gives an
                output, or an error, for each.

        Returns:
            For each recipe its artifact and whether `body` was run for it, or the error.

        Raises:
            InputError: as of `make`.
        """
        waiting = [i for i, recipe in enumerate(recipes) if self.look(recipe).status != "cached"]
        failed: dict[int, SynthPipelineError] = {}
        executed: set[int] = set()
        try:
            with ExitStack() as locks:
                # In one order everywhere, so that two processes never wait for each other.
                for i in sorted(waiting, key=lambda i: (recipes[i].stage, recipes[i].key)):
                    locks.enter_context(self._lock(recipes[i].stage, recipes[i].key))
                # Another process may have made some while we waited for the locks.
                places = {i: (recipes[i].stage, recipes[i].key) for i in waiting}
                missing = [i for i in waiting if self._verify(*places[i]).status != "cached"]
                if missing:
                    failed = self._build(recipes, missing, body)
                    executed = set(missing) - set(failed)
                for i in waiting:
                    self._verified[places[i]] = self._verify(*places[i])
        except OSError as error:
            if error.errno in _DISK_ERRORS:
                raise InputError(
                    f"The store {self.root} cannot be written ({os.strerror(error.errno)}); "
                    "make room or choose another --root, then run the same command again: "
                    "what was finished is kept."
                ) from None
            raise
        made: list[tuple[Artifact, bool] | SynthPipelineError] = []
        for i, recipe in enumerate(recipes):
            artifact = self.look(recipe).artifact
            assert artifact is not None or i in failed, f"{recipe.label} vanished when published"
            made.append(failed[i] if artifact is None or i in failed else (artifact, i in executed))
        return made

    def work_dir(self, recipe: Recipe) -> Path:
        """A folder in which the recipe's body may keep its state while it runs.

        It outlives a killed process, and goes away when the artifact is published.
        """
        folder = self._work_dir(recipe)
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def sweep(self) -> int:
        """Remove what killed processes left half-made; returns how many folders.

        A state is kept for a week, because the same command goes on from it.
        """
        removed = 0
        for orphan in [*self._half_made(), *self._forgotten()]:
            key = orphan.name.split("-")[1]
            try:
                with self._lock(orphan.parent.name, key, timeout_s=0):
                    shutil.rmtree(orphan, ignore_errors=True)
                    removed += 1
            except Timeout:
                continue  # somebody is making it right now
        return removed

    def manifests(self, stage: str) -> Iterator[dict[str, Any]]:
        """All readable manifests of a stage, the newest first."""
        paths = sorted(
            self.root.glob(f"{stage}/[!.]*/{MANIFEST}"),
            key=lambda path: (path.stat().st_mtime_ns, path.parent.name),
            reverse=True,
        )
        for path in paths:
            manifest = _read_manifest(path)
            if manifest is not None:
                yield manifest

    def _half_made(self) -> Iterator[Path]:
        yield from (p for p in self.root.glob("*/.[!.]*") if p.name.startswith((".new-", ".old-")))

    def _forgotten(self) -> Iterator[Path]:
        for folder in self.root.glob("*/.work-*"):
            try:
                # Whoever saves a state renames a file in the folder, which is a change of it.
                idle_s = time.time() - folder.stat().st_mtime
            except FileNotFoundError:
                continue  # it was published just now
            if idle_s > _FORGOTTEN_S:
                yield folder

    def _work_dir(self, recipe: Recipe) -> Path:
        return self.root / recipe.stage / f".work-{recipe.key}"

    def _lock(self, stage: str, key: str, timeout_s: float = -1) -> FileLock:
        # `parents=True` gives the mode to the last folder only, so the root goes first.
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        locks = self.root / ".locks"
        locks.mkdir(mode=0o700, exist_ok=True)
        return FileLock(locks / f"{stage}-{key}", timeout=timeout_s, mode=0o600)

    def _build(
        self, recipes: Sequence[Recipe], missing: Sequence[int], body: TogetherBody
    ) -> dict[int, SynthPipelineError]:
        """Run the body and publish what it made; returns the errors."""
        folders: list[Path] = []
        failed: dict[int, SynthPipelineError] = {}
        try:
            for i in missing:
                stage = self.root / recipes[i].stage
                stage.mkdir(mode=0o700, exist_ok=True)
                folders.append(stage / f".new-{recipes[i].key}-{uuid.uuid4().hex[:8]}")
                folders[-1].mkdir(mode=0o700)
            outputs = body(missing, folders)
            for i, folder, output in zip(missing, folders, outputs, strict=True):
                if isinstance(output, SynthPipelineError):
                    failed[i] = output
                else:
                    self._publish(recipes[i], folder, output)
        finally:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
        return failed

    def _publish(self, recipe: Recipe, beside: Path, output: Output) -> None:
        """Describe a folder and put it in its place in one step."""
        final = self.root / recipe.stage / recipe.key
        files = {
            path.relative_to(beside).as_posix(): {
                "bytes": path.stat().st_size,
                "sha256": file_sha256(path),
            }
            for path in sorted(beside.rglob("*"))
            if path.is_file()
        }
        manifest = {
            **asdict(recipe),
            "key": recipe.key,
            "files": files,
            "digest": _content_digest(files),
            "parts": dict(output.parts),
            "measurements": dict(output.measurements),
        }
        manifest["checksum"] = _checksum(manifest)
        for name in files:
            _fsync(beside / name)
        text = json.dumps(manifest, indent=1, ensure_ascii=False)
        (beside / MANIFEST).write_text(text, encoding="utf-8")
        _fsync(beside / MANIFEST)
        for folder in {(beside / name).parent for name in files} | {beside}:
            _fsync(folder)
        if final.exists():  # damaged: out of the way in one step, then removed
            damaged = final.parent / f".old-{recipe.key}-{uuid.uuid4().hex[:8]}"
            final.rename(damaged)
            shutil.rmtree(damaged, ignore_errors=True)
        beside.rename(final)
        _fsync(final.parent)
        shutil.rmtree(self._work_dir(recipe), ignore_errors=True)

    def _verify(self, stage: str, key: str) -> Looked:
        folder = self.root / stage / key
        if not folder.is_dir():
            return Looked("missing", reason="never made")
        manifest = _read_manifest(folder / MANIFEST)
        if manifest is None or manifest["key"] != key:
            return Looked("damaged", reason=f"{MANIFEST} is missing or was changed")
        artifact = Artifact(stage, key, folder, manifest["digest"], manifest["parts"], manifest)
        for name, known in manifest["files"].items():
            path = folder / name
            try:
                size_bytes = path.stat().st_size
                if size_bytes != known["bytes"]:
                    reason = f"{name} has {size_bytes} bytes instead of {known['bytes']}"
                elif file_sha256(path) != known["sha256"]:
                    reason = f"{name} was changed"
                else:
                    continue
            except FileNotFoundError:
                reason = f"{name} is gone"
            except OSError as error:
                reason = f"{name} cannot be read ({error.strerror})"
            return Looked("damaged", artifact, reason)
        return Looked("cached", artifact)


_FORGOTTEN_S = 7 * 24 * 3600
_DISK_ERRORS = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT}


def _content_digest(files: Mapping[str, Mapping[str, Any]]) -> str:
    pairs = [[name, files[name]["sha256"]] for name in sorted(files)]
    return hashlib.sha256(canonical_json(pairs)).hexdigest()


def _checksum(manifest: Mapping[str, Any]) -> str:
    body = {name: value for name, value in manifest.items() if name != "checksum"}
    return hashlib.sha256(canonical_json(body)).hexdigest()


def _read_manifest(path: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict) or manifest.get("checksum") != _checksum(manifest):
        return None
    return manifest


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
