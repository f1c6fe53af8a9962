"""Every exception that rainfs raises on purpose.

Each class says who raises it, whose fault it is and whether a retry helps.  Layers translate
at their boundary: nothing above `array` sees a socket error, nothing above `meta` sees an SQLite
error, and errno numbers exist in `mount` only.
"""

from __future__ import annotations


class RainError(Exception):
    """Root of the tree.  The message is one line that a user can read."""


# --- What the user gave us.  A retry never helps. ---------------------------------------------


class InputError(RainError):
    """A value from the user is unusable: URL, geometry, path, option.  Raised by any layer."""


class MountPointError(InputError):
    """The mount point is missing, not an empty directory, or already mounted (`mount`, `cli`)."""


# --- Nodes and their stores. --------------------------------------------------------------------


class StorageError(RainError):
    """A node or its store did not do what was asked.  Raised by `store`, `node`, `array`."""


class NodeUnavailable(StorageError):
    """No answer: connection refused, lost or past its deadline.  Another node or later helps."""


class NodeFull(StorageError):
    """The node has no room for the shard.  Another node helps."""


class NodeFailing(StorageError):
    """The node's disk reported an I/O error.  Another node helps; this one is sick."""


class ShardMissing(StorageError):
    """The node does not hold that shard.  Re-read the stripe row, then reconstruct."""


class ShardCorrupt(StorageError):
    """The shard's bytes do not match its checksums.  Reconstruct from the others."""


class ShardConflict(StorageError):
    """The node holds that shard id with other content.  Never retried: ids are never reused."""


class ForeignVolume(StorageError):
    """The store belongs to another volume than the caller's.  A retry never helps."""


class StoreInUse(StorageError):
    """Another process holds the store's exclusive lock."""


class StoreDamaged(StorageError):
    """The store's own structures are unreadable, of a later format, or do not fit together."""


class StoreTooSmall(StorageError):
    """The requested capacity is smaller than what the store already holds."""


class ProtocolError(StorageError):
    """The two ends of a connection do not agree on the protocol."""


class LocalProtocolError(ProtocolError):
    """We tried to send something the protocol forbids: a bug on this side."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something the protocol forbids, or speaks another protocol or version."""


# --- The array as a whole. ----------------------------------------------------------------------


class ArrayError(RainError):
    """The array cannot serve a request with the nodes it has.  Raised by `array`."""


class ArrayFull(ArrayError):
    """No choice of nodes has room for the stripe.  Deleting files or adding nodes helps."""


class ArrayUnavailable(ArrayError):
    """Too few nodes answer, within the deadline, to write or read a stripe.  Waiting may help."""


class StripeSpoiled(ArrayError):
    """Every node may hold another form of this stripe id.  A new id may be written at once."""


class StripeLost(ArrayError):
    """More shards of a stripe are missing or corrupt than its parity can replace."""


class CodecError(RainError):
    """An erasure-code call with impossible geometry, or too few shards.  Raised by `erasure`."""


# --- Metadata. ----------------------------------------------------------------------------------


class MetadataError(RainError):
    """The metadata engine failed or refused.  Raised by `meta`."""


class MetadataAbsent(MetadataError):
    """There is no metadata database at that URL."""


class MetadataForeign(MetadataError):
    """The file there is not a rainfs metadata database, or it is corrupt."""


class MetadataVersion(MetadataError):
    """The database was written by a version of rainfs that this one does not know."""


class AlreadyFormatted(MetadataError):
    """`format` met a database that already describes a volume."""


class VolumeBusy(MetadataError):
    """Another read-write mount holds the volume's session."""


class SessionLost(MetadataError):
    """This mount's session was ended by somebody else; no further commit may succeed."""


class TransactionConflict(MetadataError):
    """A transaction kept meeting conflicting ones until its retries ran out.  Later helps."""


# --- POSIX results: what an operation on the namespace or a file may say. -----------------------


class PosixError(RainError):
    """Root of the results that POSIX names.  Raised by `meta` and `vfs`; `mount` maps to errno."""


class NotFound(PosixError):
    """ENOENT: no such name or inode."""


class Exists(PosixError):
    """EEXIST: the name is taken."""


class NotDirectory(PosixError):
    """ENOTDIR."""


class IsDirectory(PosixError):
    """EISDIR."""


class NotEmpty(PosixError):
    """ENOTEMPTY."""


class NameTooLong(PosixError):
    """ENAMETOOLONG: above 255 bytes, or a symbolic link target above 4095."""


class NotPermitted(PosixError):
    """EPERM."""


class AccessDenied(PosixError):
    """EACCES."""


class InvalidArgument(PosixError):
    """EINVAL."""


class TooManyLinks(PosixError):
    """EMLINK."""


class FileTooLarge(PosixError):
    """EFBIG: beyond 2^60 bytes."""


class NoSpace(PosixError):
    """ENOSPC: the array has no room for the bytes or the name."""


class ReadOnly(PosixError):
    """EROFS: the mount is read-only."""


class NoAttribute(PosixError):
    """ENODATA: no such extended attribute."""


class AttributeTooLarge(PosixError):
    """ERANGE or E2BIG: an extended attribute value above 64 KiB, or a list above 64 KiB."""


class NotSupported(PosixError):
    """ENOTSUP: the operation exists but not here."""


class BadHandle(PosixError):
    """EBADF: the handle is closed or was opened for something else."""


class InputOutput(PosixError):
    """EIO: bytes could not be read or made durable within the deadline."""
