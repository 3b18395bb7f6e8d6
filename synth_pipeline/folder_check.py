"""Whether a path is a folder, or can become one: asked before anything is written."""

import os
from pathlib import Path

from synth_pipeline.disk_errors import check_room
from synth_pipeline.errors import InputError

#: Of what Linux takes, less what lies below a root.
_LONGEST_NAME_BYTES, _LONGEST_BYTES = 255, 3500


def check_folder(folder: Path, what: str, *, written: bool) -> None:
    """See that a path is a folder, or can become one, before anything is written.

    Args:
        folder: an absolute path.
        what: what people call it, such as "--root".
        written: whether it will be written to.

    Raises:
        InputError: a file or a dangling link is in the way, a name is too long, or the folder may
            not be entered or written.
    """
    longest = max((os.fsencode(part) for part in folder.parts), key=len)
    if len(longest) > _LONGEST_NAME_BYTES or len(os.fsencode(folder)) > _LONGEST_BYTES:
        raise InputError(
            f"{what}: the path {str(folder)[:60]}... is too long; a name in it may have "
            f"{_LONGEST_NAME_BYTES} bytes, and all of it {_LONGEST_BYTES}."
        )
    verb = "written" if written else "read"
    for place in (folder, *folder.parents):
        try:
            place.stat()
        except FileNotFoundError:
            if place.is_symlink():
                raise InputError(
                    f"{what} {folder} cannot be {verb}: {place} is a link that leads nowhere; "
                    "remove it, or choose another place."
                ) from None
            continue
        except (NotADirectoryError, PermissionError):
            continue  # the file, or the folder without rights, is met further up
        except OSError as error:
            raise InputError(
                f"{what} {folder} cannot be {verb}: {place}: {error.strerror}; choose another "
                "place."
            ) from None
        if not place.is_dir():
            raise InputError(
                f"{what} {folder} cannot be {verb}: {place} is a file, and a folder belongs there; "
                "move it away, or choose another place."
            )
        needed = os.X_OK | (os.R_OK if place == folder else 0) | (os.W_OK if written else 0)
        _check_rights(place, what, needed)
        return


def check_writable(folder: Path, what: str) -> None:
    """See that there is room in a folder, and that it can be written; see `check_folder`.

    Raises:
        DiskError: there is no room.
        InputError: it cannot be written.
    """
    check_folder(folder, what, written=True)
    check_room(folder)


def _check_rights(place: Path, what: str, needed: int) -> None:
    if os.access(place, needed):
        return
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        why = "its file system is read only"
    else:
        why = "permission denied"
    verb = "written" if needed & os.W_OK else "read"
    raise InputError(f"{what}: {place} cannot be {verb} ({why}); choose another place.")
