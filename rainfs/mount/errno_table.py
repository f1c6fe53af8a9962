"""From our exceptions to errno numbers: the only place that knows both."""

from __future__ import annotations

import errno

from rainfs import errors

TABLE: dict[type[errors.RainError], int] = {
    errors.NotFound: errno.ENOENT,
    errors.Exists: errno.EEXIST,
    errors.NotDirectory: errno.ENOTDIR,
    errors.IsDirectory: errno.EISDIR,
    errors.NotEmpty: errno.ENOTEMPTY,
    errors.NameTooLong: errno.ENAMETOOLONG,
    errors.NotPermitted: errno.EPERM,
    errors.AccessDenied: errno.EACCES,
    errors.InvalidArgument: errno.EINVAL,
    errors.TooManyLinks: errno.EMLINK,
    errors.FileTooLarge: errno.EFBIG,
    errors.NoSpace: errno.ENOSPC,
    errors.ReadOnly: errno.EROFS,
    errors.NoAttribute: errno.ENODATA,
    errors.AttributeTooLarge: errno.E2BIG,
    errors.NotSupported: errno.ENOTSUP,
    errors.BadHandle: errno.EBADF,
    errors.InputOutput: errno.EIO,
    errors.ArrayFull: errno.ENOSPC,
    errors.NodeFull: errno.ENOSPC,
}
"""Every other class of ours is EIO: the fault of the array or the metadata, not of the caller."""


def errno_of(error: errors.RainError) -> int:
    """Return the number for an error, by its class or the nearest one above."""
    for kind in type(error).__mro__:
        number = TABLE.get(kind)
        if number is not None:
            return number
    return errno.EIO
