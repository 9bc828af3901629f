"""Merkle trees of RFC 6962: hashing, and what proofs prove. Pure; hashes are 32 raw bytes."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Final

EMPTY_ROOT: Final = hashlib.sha256().digest()

Subtree = Callable[[int, int], bytes]
"""(level, index) to the hash of the complete subtree over leaves [index << level, (index + 1) << level)."""


def leaf_hash(body: bytes) -> bytes:
    """Return SHA-256(0x00 || body)."""
    return hashlib.sha256(b"\x00" + body).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(subtree: Subtree, size: int) -> bytes:
    """Return the root over the first `size` leaves."""
    return range_hash(subtree, 0, size) if size else EMPTY_ROOT


def range_hash(subtree: Subtree, start: int, end: int) -> bytes:
    """Return MTH(D[start:end]) for a range that a proof may ask for: `start` is a multiple of its power of two."""
    pieces = []
    while start < end:
        level = (end - start).bit_length() - 1
        pieces.append(subtree(level, start >> level))
        start += 1 << level
    folded = pieces.pop()
    while pieces:
        folded = node_hash(pieces.pop(), folded)
    return folded


def inclusion(subtree: Subtree, index: int, size: int) -> list[bytes]:
    """Return the audit path of leaf `index` in the tree of `size` leaves, leaf to root."""
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        split = start + _largest_power_below(end - start)
        if index < split:
            path.append(range_hash(subtree, split, end))
            end = split
        else:
            path.append(range_hash(subtree, start, split))
            start = split
    return path[::-1]


def consistency(subtree: Subtree, old: int, new: int) -> list[bytes]:
    """Return the proof that the tree of `new` leaves grew from the one of `old` (RFC 6962 2.1.2)."""
    if not 0 < old < new:
        return []
    path: list[bytes] = []
    start, end, wanted, whole = 0, new, old, True
    while wanted != end - start:
        split = _largest_power_below(end - start)
        if wanted <= split:
            path.append(range_hash(subtree, start + split, end))
            end = start + split
        else:
            path.append(range_hash(subtree, start, start + split))
            start, wanted, whole = start + split, wanted - split, False
    if not whole:
        path.append(range_hash(subtree, start, end))
    return path[::-1]


def root_of_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Return the root that this audit path leads to, None when its length does not fit index and size."""
    if not 0 <= index < size:
        return None
    node, last, result = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return None
        if node & 1 or node == last:
            result = node_hash(sibling, result)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            result = node_hash(result, sibling)
        node >>= 1
        last >>= 1
    return result if last == 0 else None


def is_consistent(old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Tell whether the path proves that the tree (new, new_root) begins with the tree (old, old_root)."""
    if not 0 <= old <= new:
        return False
    if old == new:
        return old_root == new_root and not path
    if old == 0:
        return old_root == EMPTY_ROOT and not path
    hashes = list(path)
    if old & (old - 1) == 0:  # a complete old tree is a node of the new one and is left out of the proof
        hashes.insert(0, old_root)
    if not hashes:
        return False
    node, last = old - 1, new - 1
    while node & 1:
        node >>= 1
        last >>= 1
    first = second = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            second = node_hash(second, sibling)
        node >>= 1
        last >>= 1
    return last == 0 and first == old_root and second == new_root


def _largest_power_below(size: int) -> int:
    return 1 << ((size - 1).bit_length() - 1)
