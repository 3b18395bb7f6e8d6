"""Run a Dockerfile's steps in plain folders, where there is no Docker engine.

    sudo debootstrap --variant=minbase bookworm /tmp/try/debian http://deb.debian.org/debian
    sudo python deploy/try_dockerfile.py /tmp/try [--target study]

Each stage is a folder that begins as a copy of the one it is made from; RUN and USER are done by
`chroot`. In place of the official python image it takes Debian's own Python of the same version.
Not tried: layers, the image's format, HEALTHCHECK (printed, to be run by hand), the network between
containers, and the GPU. Seven gigabytes of downloads, twenty of disk.
"""

import argparse
import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

HOME = Path(__file__).parent.parent
#: What the machine needs to reach the registries through, if it needs anything.
_ONLY_TO_TRY = ("/etc/resolv.conf", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Stage:
    """One `FROM`: its name, what it is made from, and its instructions in order."""

    name: str
    parent: str
    steps: list[tuple[str, str]] = field(default_factory=list)


def stages_of(dockerfile: Path) -> list[Stage]:
    """Read a Dockerfile's stages.

    Raises:
        ValueError: an instruction stands before the first FROM, or FROM gives no name.
    """
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE)
    found: list[Stage] = []
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            parent, name = re.fullmatch(r"(\S+) AS (\S+)", rest.strip()).groups()
            found.append(Stage(name, parent))
        else:
            found[-1].steps.append((word, " ".join(rest.split()) if word != "RUN" else rest))
    return found


def ignored(name: str, patterns: list[str]) -> bool:
    """Whether .dockerignore keeps a file of the context out; the last pattern that fits decides."""
    out = False
    for pattern in patterns:
        wanted = pattern.removeprefix("!").removeprefix("**/")
        parts = name.split("/")
        ends = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        if pattern.removeprefix("!").startswith("**/"):
            ends = parts
        if any(fnmatch.fnmatchcase(end, wanted) for end in ends):
            out = not pattern.startswith("!")
    return out


def context_files() -> list[str]:
    """The files that reach the build, relative to the project."""
    lines = (HOME / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    files = [p.relative_to(HOME).as_posix() for p in HOME.rglob("*") if p.is_file()]
    return sorted(name for name in files if not ignored(name, patterns))


class Builder:
    """Builds stages under a folder.

    Args:
        folder: holds `debian`, made by debootstrap; the stages are made beside it.
    """

    def __init__(self, folder: Path, stages: list[Stage]) -> None:
        self.folder = folder
        self.stages = {stage.name: stage for stage in stages}
        self.environment: dict[str, dict[str, str]] = {}

    def build(self, name: str) -> Path:
        """Build a stage and all it needs; one that is there is taken as it is."""
        root = self.folder / name
        stage = self.stages[name]
        parent = self.stages.get(stage.parent)
        below = self.build(parent.name) if parent else self._python()
        self.environment[name] = dict(self.environment[parent.name]) if parent else {}
        done = self.folder / f"{name}.done"
        if not done.exists():
            print(f"=== {name}: from {stage.parent}", flush=True)
            subprocess.run(["rm", "-rf", "--one-file-system", str(root)], check=True)
            subprocess.run(["cp", "-a", str(below), str(root)], check=True)
        user, place = "root", "/"
        for word, rest in stage.steps:
            if word == "ENV":
                for pair in shlex.split(rest):
                    key, _, value = pair.partition("=")
                    before = self.environment[name].get(key, _PATH)
                    self.environment[name][key] = value.replace(f"${key}", before)
            elif word == "USER":
                user = rest
            elif word == "WORKDIR":
                place = rest
            if done.exists():
                continue
            if word == "WORKDIR":
                (root / place.lstrip("/")).mkdir(parents=True, exist_ok=True)
            elif word == "COPY":
                self._copy(root, rest, place)
            elif word == "RUN":
                print(f"--- {name}: RUN {rest[:100]}", flush=True)
                self.run(name, rest, user, place)
            elif word in ("HEALTHCHECK", "CMD", "ENTRYPOINT"):
                print(f"    {name}: not run: {word} {rest[:90]}")
        done.touch()
        return root

    def run(self, name: str, command: str, user: str = "root", place: str = "/") -> None:
        """Run a shell command in a stage's folder."""
        root = self.folder / name
        home = "/root" if user == "root" else f"/home/{user}"
        environment = {"HOME": home, "LANG": "C.UTF-8", "PATH": _PATH}
        environment |= self.environment[name]
        # In a mount namespace of its own: whatever happens, nothing stays mounted, and no later
        # `rm -rf` of the folder can reach the machine's /dev.
        mounts = " && ".join(
            f"mount --bind /{mount} {shlex.quote(str(root / mount))}"
            for mount in ("proc", "sys", "dev")
        )
        inside = ["chroot", f"--userspec={user}:{user}", str(root), "/usr/bin/env", "-i"]
        inside += [f"{key}={value}" for key, value in environment.items()]
        inside += ["/bin/sh", "-ec", f"cd {place} && {command}"]
        subprocess.run(
            ["unshare", "--mount", "sh", "-ec", f"{mounts} && exec {shlex.join(inside)}"],
            check=True,
        )

    def _python(self) -> Path:
        """Debian with its Python where the official image has its own."""
        root = self.folder / "debian-python"
        if not root.exists():
            beside = self.folder / "debian-python.new"
            subprocess.run(["cp", "-a", str(self.folder / "debian"), str(beside)], check=True)
            for name in _ONLY_TO_TRY:
                if Path(name).exists():
                    (beside / name.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(name, beside / name.lstrip("/"))
            self.environment[beside.name] = {"DEBIAN_FRONTEND": "noninteractive"}
            packages = "python3 python3-venv python3-pip ca-certificates"
            self.run(
                beside.name,
                f"apt-get update -qq && apt-get install -y -qq --no-install-recommends {packages}"
                " >/dev/null",
            )
            for name in _ONLY_TO_TRY[2:]:  # installed over
                shutil.copy(name, beside / name.lstrip("/"))
            beside.rename(root)
        return root

    def _copy(self, root: Path, rest: str, place: str) -> None:
        words = rest.split()
        options = [word for word in words if word.startswith("--")]
        *sources, target = [word for word in words if not word.startswith("--")]
        into = root / str(Path(place) / target).lstrip("/")
        stage = next((o.partition("=")[2] for o in options if o.startswith("--from=")), None)
        owner = next((o.partition("=")[2] for o in options if o.startswith("--chown=")), None)
        if stage:
            (source,) = sources
            into.parent.mkdir(parents=True, exist_ok=True)
            found = self.build(stage) / source.lstrip("/")
            subprocess.run(["cp", "-aT", str(found), str(into)], check=True)
        else:
            self._copy_context(sources, into, target)
        if owner:
            user, _, group = owner.partition(":")
            chown = ["chroot", str(root), "chown", "-R", f"{user}:{group}"]
            subprocess.run([*chown, str(Path("/", place, target))], check=True)

    def _copy_context(self, sources: list[str], into: Path, target: str) -> None:
        known = context_files()
        for source in sources:
            wanted = source.removeprefix("./")
            found = [n for n in known if wanted == "." or n == wanted or n.startswith(f"{wanted}/")]
            if not found:
                raise SystemExit(f"COPY {source}: not in the context; see .dockerignore")
            for name in found:
                inner = Path(name)
                if wanted != ".":
                    # Of a folder its content is copied, as Docker does.
                    inner = Path(inner.name) if name == wanted else inner.relative_to(wanted)
                path = into / inner if target.endswith(("/", ".")) else into
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(HOME / name, path)


def main() -> None:
    """Build one target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--target", default="study")
    options = parser.parse_args()
    if os.geteuid() != 0 or not (options.folder / "debian").is_dir():
        sys.exit("needs root, and a folder with `debian` in it: see the head of this file")
    root = Builder(options.folder, stages_of(HOME / "Dockerfile")).build(options.target)
    print(f"built {root}")


if __name__ == "__main__":
    main()
