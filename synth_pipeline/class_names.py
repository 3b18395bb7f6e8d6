"""Names of conditions, as people write them, and the ids that file names and keys use.

A name is what its folder, table or inbox calls it, in Unicode's composed form (NFC). Names that
differ in case are two conditions: nobody but the owner of the photos knows better.
"""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

#: Longer ids would not fit into file names together with what stands before and after them.
_LONGEST_ID = 80
_CUT_ID = 60
#: What `marked_id` appends. A name that ends like this never has an id without another such ending.
_MARK = re.compile(r"-x[0-9a-f]{8}$")


def normalised(name: str) -> str:
    """The name in composed form (NFC), so that a letter is one however it was typed."""
    return unicodedata.normalize("NFC", name)


def is_text(name: str) -> bool:
    """Whether a name of the file system is UTF-8; the bytes of others became lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def printable(name: str) -> str:
    """A name that terminals, Parquet and YAML take: other bytes and control signs as `\\xNN`."""
    return "".join(f"\\x{ord(letter) & 0xFF:02x}" if _is_odd(letter) else letter for letter in name)


def shown(name: str) -> str:
    """What prompts and reports call a class: as it is written, with underscores as spaces."""
    return printable(" ".join(normalised(name).replace("_", " ").split()))


def class_ids(names: Iterable[str]) -> dict[str, str]:
    """Class names to ids, each its own: lower-case letters, digits and hyphens.

    The id is the name's slug where that says it all. A name of which the slug loses letters, or
    that is too long for a file name, has the slug and a hash of the name. Of names with the same
    slug, only the one that *is* the slug keeps it. So no id depends on an order, and a name that
    comes later can change one id at most: that of the one other spelling of its slug.

    Args:
        names: in any order; composed and decomposed forms of one name get one id.
    """
    by_slug: dict[str, set[str]] = defaultdict(set)
    given = sorted(set(names))
    for name in given:
        by_slug[slug(name)].add(normalised(name))
    ids = {}
    for name in given:
        short = short_id(name)
        is_owner = len(by_slug[slug(name)]) == 1 or short == normalised(name)
        ids[name] = short if short and is_owner else marked_id(name)
    return ids


def short_id(name: str) -> str | None:
    """The slug of a name, if it says it all."""
    short, plain = slug(name), normalised(name)
    lost = any(ord(letter) > 127 and _is_letter(letter) for letter in plain)
    # "class" is also what is left of a name without any Latin letter or digit.
    is_empty = not re.search(r"[a-z0-9]", plain.lower())
    return None if lost or is_empty or len(short) > _LONGEST_ID or _MARK.search(short) else short


def marked_id(name: str) -> str:
    """The slug of a name, cut if need be, and a hash of the whole name."""
    digest = hashlib.sha256(normalised(name).encode(errors="surrogateescape")).hexdigest()
    return f"{slug(name)[:_CUT_ID].rstrip('-')}-x{digest[:8]}"


def slug(name: str) -> str:
    """A class's name as lower-case letters, digits and hyphens; several names may share it."""
    return re.sub(r"[^a-z0-9]+", "-", normalised(name).lower()).strip("-") or "class"


def _is_letter(letter: str) -> bool:
    return unicodedata.category(letter)[0] in "LMN" or "\ud800" <= letter <= "\udfff"


def _is_odd(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cs")
