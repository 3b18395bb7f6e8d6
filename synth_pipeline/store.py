"""Content-addressed artifacts: key, publish atomically, verify. The only writer of stage outputs.

An artifact is a folder `store/<stage>/<key>/`. Its `manifest.json` is written last, so a folder
that has one is complete; it names every file with size and SHA-256, and itself carries a checksum,
so that a changed byte anywhere is found. A folder still being made lies beside, under a name that
begins with a dot, and is held by a kernel lock: what a killed process leaves is free at once.

Where machines share no disk, a bucket stands behind the folder: `shared_store.py`.
"""

import contextlib
import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from synth_pipeline.atomic import fsync, write_in_one_step
from synth_pipeline.disk_errors import explained
from synth_pipeline.errors import StageError, SynthPipelineError
from synth_pipeline.manifest import (
    MANIFEST,
    Artifact,
    Output,
    Recipe,
    artifact_of,
    canonical_json,
    describe,
    difference,
    file_sha256,
    read_manifest,
)

# What stages need of the store, in one place.
__all__ = [
    "MANIFEST",
    "Artifact",
    "Looked",
    "Output",
    "Recipe",
    "Store",
    "canonical_json",
    "file_sha256",
    "write_in_one_step",
]


@dataclass(frozen=True)
class Looked:
    """What lies under a key.

    Attributes:
        status: `cached` (verified), `missing`, or `damaged` (a file is gone or changed).
        artifact: set when `cached`; also when `damaged` but the manifest is intact, so that one
            can tell what the content was.
        reason: why it is not cached, in words; or what of it was verified, if it is away.
        is_away: cached elsewhere; `Store.fetch` brings the files.
    """

    status: Literal["cached", "missing", "damaged"]
    artifact: Artifact | None = None
    reason: str = ""
    is_away: bool = False


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
            self._verified[place] = self._find(*place)
        return self._verified[place]

    def fetch(self, artifact: Artifact) -> bool:
        """Make sure that an artifact's files lie in its folder, verified.

        Returns:
            False if they turned out to be damaged, so that the artifact must be made again.
        """
        return True

    def check(self) -> None:
        """See that the store can be used, before anything is written.

        Raises:
            InputError: it cannot.
        """

    def look_again(self) -> None:
        """Forget what was missing or damaged, because other processes may have made it since."""
        self._verified = {
            place: looked for place, looked in self._verified.items() if looked.status == "cached"
        }

    def make(self, recipe: Recipe, body: Callable[[Path], Output]) -> tuple[Artifact, bool]:
        """Return the recipe's artifact, running `body` on an empty folder if it is not there.

        Args:
            body: writes the stage's files into the folder it is given.

        Returns:
            The artifact, and whether `body` was run.

        Raises:
            DiskError: there is no room, or the disk does not answer.
            InputError: the store cannot be written (a read-only folder, a file in its place).
        """
        made = self.make_together([recipe], lambda _, folders: [body(folders[0])])[0]
        if isinstance(made, SynthPipelineError):
            raise made
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
            DiskError: as of `make`, and so is InputError.
        """
        waiting = [i for i, recipe in enumerate(recipes) if self.look(recipe).status != "cached"]
        failed: dict[int, SynthPipelineError] = {}
        executed: set[int] = set()
        places = {i: (recipes[i].stage, recipes[i].key) for i in waiting}
        with self._disk_errors(), ExitStack() as claims:
            # In one order everywhere, so that two processes never wait for each other.
            for place in sorted(places.values()):
                claims.enter_context(self._claim(*place))
            # Another process may have made some while we waited.
            missing = [i for i in waiting if self._find(*places[i]).status != "cached"]
            if missing:
                failed = self._build(recipes, missing, body)
                executed = set(missing) - set(failed)
            for i in waiting:
                self._verified[places[i]] = self._find(*places[i])
            for place in places.values():
                self._share(*place)
        for i in set(range(len(recipes))) - set(waiting):
            self._offer(recipes[i].stage, recipes[i].key)
        made: list[tuple[Artifact, bool] | SynthPipelineError] = []
        for i, recipe in enumerate(recipes):
            artifact = self.look(recipe).artifact
            if artifact is None and i not in failed:
                failed[i] = StageError(
                    f"{recipe.stage} {recipe.label} was removed or changed by somebody else while "
                    "it was published; run the same command again."
                )
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
            manifest = read_manifest(path)
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
                folders.append(self._new_folder(recipes[i].stage, recipes[i].key))
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
        manifest = describe(recipe, beside, output)
        text = json.dumps(manifest, indent=1, ensure_ascii=False)
        (beside / MANIFEST).write_text(text, encoding="utf-8")
        self._put_in_place(manifest, beside)
        shutil.rmtree(self._work_dir(recipe), ignore_errors=True)

    def _put_in_place(self, manifest: Mapping[str, Any], beside: Path) -> None:
        """Rename a complete folder to its key; a damaged one there makes way for it."""
        final = self.root / manifest["stage"] / manifest["key"]
        for name in [*manifest["files"], MANIFEST]:
            fsync(beside / name)
        for folder in {(beside / name).parent for name in manifest["files"]} | {beside}:
            fsync(folder)
        if final.exists():  # damaged: out of the way in one step, then removed
            damaged = final.parent / f".old-{final.name}-{uuid.uuid4().hex[:8]}"
            final.rename(damaged)
            shutil.rmtree(damaged, ignore_errors=True)
        beside.rename(final)
        fsync(final.parent)

    def _new_folder(self, stage: str, key: str) -> Path:
        """An empty folder beside the artifacts, for one that is not complete yet."""
        (self.root / stage).mkdir(mode=0o700, exist_ok=True)
        folder = self.root / stage / f".new-{key}-{uuid.uuid4().hex[:8]}"
        folder.mkdir(mode=0o700)
        return folder

    def _claim(self, stage: str, key: str) -> contextlib.AbstractContextManager[Any]:
        """Let nobody else make it meanwhile."""
        return self._lock(stage, key)

    def _share(self, stage: str, key: str) -> None:
        """Let other machines have what was made here; claimed by us."""

    def _offer(self, stage: str, key: str) -> None:
        """Let other machines have what was here already."""

    def _find(self, stage: str, key: str) -> Looked:
        """What lies under a key, wherever."""
        return self._verify(stage, key)

    def _verify(self, stage: str, key: str) -> Looked:
        folder = self.root / stage / key
        if not folder.is_dir():
            return Looked("missing", reason="never made")
        manifest = read_manifest(folder / MANIFEST)
        if manifest is None or manifest["key"] != key:
            return Looked("damaged", reason=f"{MANIFEST} is missing or was changed")
        artifact = artifact_of(manifest, folder)
        if reason := difference(manifest, folder):
            return Looked("damaged", artifact, reason)
        return Looked("cached", artifact)

    def _disk_errors(self) -> contextlib.AbstractContextManager[None]:
        """What the disk answers becomes one sentence."""
        return explained("The store", self.root)


_FORGOTTEN_S = 7 * 24 * 3600
