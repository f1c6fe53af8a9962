"""From a metadata URL to an engine.

Owns the URL forms: `sqlite:///absolute/path.db` and `memory://`.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from rainfs.errors import InputError
from rainfs.meta.engine import Engine
from rainfs.meta.memory import MemoryEngine
from rainfs.meta.sqlite import SqliteEngine

SQLITE_PREFIX = "sqlite://"
MEMORY_URL = "memory://"


def sqlite_path(url: str) -> Path | None:
    """Return the database file that a URL names, None if it names none.  Raises: InputError."""
    if not url.startswith(SQLITE_PREFIX):
        return None
    path = unquote(url.removeprefix(SQLITE_PREFIX))
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise InputError(f"bad metadata URL {url!r}: want sqlite:///absolute/path.db")
    return Path(path)


def open_engine(url: str, *, create: bool = False) -> Engine:
    """Open the engine at `url`; with `create`, make the database if there is none.

    Raises: InputError, MetadataAbsent, MetadataForeign, MetadataVersion, MetadataError.
    """
    path = sqlite_path(url)
    if path is not None:
        return SqliteEngine(path, create=create)
    if url == MEMORY_URL:
        return MemoryEngine()
    raise InputError(f"bad metadata URL {url!r}: want sqlite:///absolute/path.db")
