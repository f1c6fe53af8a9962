"""Which names an extended attribute may have, and who sees which.

Refuses to know values and limits (`meta`) and who may change what: the kernel checks that.
"""

from __future__ import annotations

from collections.abc import Iterable

from rainfs.errors import InvalidArgument, NotSupported
from rainfs.vfs import acl

TRUSTED = b"trusted."
NAMESPACES = (b"user.", TRUSTED, b"security.")


def check_name(name: bytes) -> None:
    """Raises: NotSupported for a name of no namespace, InvalidArgument for one without more."""
    if name.startswith(NAMESPACES):
        if name in NAMESPACES:
            raise InvalidArgument(f"a namespace is no attribute name: {name!r}")
    elif name not in (acl.ACCESS, acl.DEFAULT):
        raise NotSupported(f"no namespace of extended attributes: {name!r}")


def visible(names: Iterable[bytes], *, privileged: bool) -> list[bytes]:
    """Return the names that a list shows: those of `trusted` to the privileged only."""
    return [name for name in names if privileged or not name.startswith(TRUSTED)]
