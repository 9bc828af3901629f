"""Many facts in one Statement: which go together, and where each one's bytes are among those of all. Pure."""

from collections.abc import Sequence
from typing import Final

import msgspec

from ugallu.evidence.statement import MAX_SUBJECTS
from ugallu.evidence.stores.parts import Part

MAX_BYTES: Final = 2 << 20
"""Of attested bytes in one statement; what is said of them in its predicate is about as much again, and readers refuse
payloads of more than 4 MiB."""
OVERHEAD: Final = 512
"""Bytes that a statement says of a fact besides what is copied out of it, at most."""


def fitting(sizes: Sequence[int]) -> int:
    """Return how many of the first facts, by the size of their bytes, go into one statement: at least one."""
    total = 0
    for count, size in enumerate(sizes[:MAX_SUBJECTS]):
        total += size + OVERHEAD
        if total > MAX_BYTES and count:
            return count
    return min(len(sizes), MAX_SUBJECTS)


def pack(contents: Sequence[bytes]) -> tuple[bytes, list[Part]]:
    """Return all contents, a line each, and which part of it each one is: without its line's end.

    Canonical JSON has no line ends of its own.
    """
    parts, at = [], 0
    for content in contents:
        parts.append(Part(at, at + len(content) - 1))
        at += len(content) + 1
    return b"".join(content + b"\n" for content in contents), parts


def part_of(whole: bytes, content: bytes) -> Part | None:
    """Return which part of a pack these bytes are, the first of equal ones; None where they are no line of it."""
    # With a line's end before it, the first line is found like any other.
    at = (b"\n" + whole).find(b"\n" + content + b"\n")
    return None if at < 0 or not content else Part(at, at + len(content) - 1)


class Member(msgspec.Struct, frozen=True, array_like=True):
    """One of those that share a statement: its bundle, its event, and its part of the attested bytes."""

    bundle: str
    bundle_uid: str
    event: str
    event_uid: str
    first: int
    last: int


class Facts(msgspec.Struct, frozen=True, array_like=True):
    """Who shares a statement; staged before anything of it is signed, so that a crash leaves nobody out or in twice."""

    digest: str
    """`sha256:<hex>` of the statement."""
    cluster_id: str
    members: tuple[Member, ...]
    content: bytes
    """The attested bytes of all."""
