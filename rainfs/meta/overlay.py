"""Scans that see a transaction's own writes.

Owns the merge of stored rows with pending changes.  Pure.
"""

from __future__ import annotations

from collections.abc import Mapping


def merge_scan(
    rows: list[tuple[bytes, bytes]],
    changed: Mapping[bytes, bytes | None],
    limit: int,
    reverse: bool,
) -> list[tuple[bytes, bytes]]:
    """Return the first `limit` pairs of `rows` with `changed` applied (None deletes).

    `rows` must hold at least `limit + len(changed)` pairs, or all there are.
    """
    merged = {key: value for key, value in rows if key not in changed}
    merged.update({key: value for key, value in changed.items() if value is not None})
    if reverse:
        # A pending key below the last row that was fetched may precede rows not fetched, but
        # `rows` has at least `limit` unchanged pairs then, which all come first.
        return sorted(merged.items(), reverse=True)[:limit]
    return sorted(merged.items())[:limit]
