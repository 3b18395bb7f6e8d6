"""What lies beside photos and is none: system folders, hidden files, and sidecars.

By name only, because nothing of it must be opened. The same for a folder of cases and for an inbox.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePath

#: Folders and files that systems, file servers and programs make; those with a dot need no mention.
_SYSTEM = {
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "@sharebin", "@sharesnap"),
    *("#recycle", "#snapshot", "~snapshot", "lost+found", "__macosx", "__pycache__"),
    *("$recycle.bin", "recycler", "recycled", "system volume information", "found.000"),
    *("network trash folder", "temporary items", "thumbs.db", "ehthumbs.db", "desktop.ini"),
    "icon\r",
}
#: Endings of what cameras, phones and people lay beside a photo: captions, edits, live pictures.
_SIDECARS = {
    *("txt", "caption", "md", "rtf", "log", "nfo", "html", "htm", "pdf", "doc", "docx", "odt"),
    *("json", "jsonl", "xml", "xmp", "aae", "yaml", "yml", "toml", "ini", "db", "thm", "pp3"),
    *("csv", "tsv", "xls", "xlsx", "ods", "dop", "on1", "cos", "pts", "npy", "npz", "sha256"),
    *("md5", "mov", "mp4", "m4v", "avi", "3gp", "mkv", "webm", "mpg", "mpeg", "mts", "wav", "m4a"),
    *("mp3", "aac", "ogg", "opus", "url", "lnk", "webloc"),
}


def is_system(name: str) -> bool:
    """Whether a file or folder is hidden or belongs to the system, whatever is in it."""
    return name.startswith((".", "~$")) or name.casefold() in _SYSTEM


def is_sidecar(name: str) -> bool:
    """Whether a file's ending says that it goes with a photo and is none."""
    return ending(name) in _SIDECARS


def ending(name: str) -> str:
    """What follows the last dot, in lower case."""
    return PurePath(name).suffix.removeprefix(".").casefold()


@dataclass
class PassedOver:
    """How much was passed over.

    Attributes:
        system: hidden and system files and folders, each folder counted once.
        sidecars: by ending.
        loose: files that lie in no class folder.
    """

    system: int = 0
    sidecars: Counter[str] = field(default_factory=Counter)
    loose: int = 0

    def takes(self, name: str, *, is_folder: bool) -> bool:
        """Count a file or folder, if it is to be passed over."""
        if is_system(name):
            self.system += 1
        elif not is_folder and is_sidecar(name):
            self.sidecars[ending(name)] += 1
        else:
            return False
        return True

    def in_words(self) -> str:
        """One sentence without a name of a file; empty if nothing was passed over."""
        told = []
        if self.system:
            what = _counted(self.system, "file or folder", "files and folders")
            told.append(what.replace(" ", " hidden or system ", 1))
        if self.sidecars:
            kinds = ", ".join(f".{kind}" for kind in sorted(self.sidecars))
            told.append(f"{_counted(self.sidecars.total(), 'file')} beside photos ({kinds})")
        if self.loose:
            told.append(f"{_counted(self.loose, 'file')} in no class folder")
        return f"Passed over: {'; '.join(told)}." if told else ""


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or f'{one}s'}"
