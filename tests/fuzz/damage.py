"""Damage to the bytes of files: what disks, networks, half a copy and other programs' faults do to them."""

from __future__ import annotations

import random

EXTREMES = (0, 1, -1, 2, 127, 128, 2**15, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, -(2**31), -(2**63))


def damaged(data: bytes, rng: random.Random, start: int = 0, stop: int | None = None) -> tuple[bytes, str]:
    """Returns the bytes with one damage that begins in [start, stop), and what it was, in words."""
    stop = len(data) if stop is None else stop
    if stop <= start:
        return data + rng.randbytes(8), "bytes added"
    place = rng.randrange(start, stop)
    length = min(stop - place, rng.choice([1, 1, 2, 4, 8, 16, 64, 512, 4096]))
    end = place + length
    kind = rng.choice(["flip", "flip", "flip", "byte", "zero", "ones", "noise", "truncate", "cut", "insert", "splice"])
    if kind == "flip":
        changed = data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
    elif kind == "byte":
        changed = data[:place] + rng.choice([b"\0", b"\1", b"\x7f", b"\x80", b"\xff"]) + data[place + 1 :]
    elif kind == "zero":
        changed = data[:place] + bytes(length) + data[end:]
    elif kind == "ones":
        changed = data[:place] + b"\xff" * length + data[end:]
    elif kind == "noise":
        changed = data[:place] + rng.randbytes(length) + data[end:]
    elif kind == "truncate":
        changed = data[:place]
    elif kind == "cut":
        changed = data[:place] + data[end:]
    elif kind == "insert":
        changed = data[:place] + rng.randbytes(length) + data[place:]
    else:
        other = rng.randrange(len(data))
        changed = data[:place] + data[other : other + length] + data[end:]
    return changed, f"{kind} of {length} at byte {place} of {len(data)}"


def varint(value: int) -> bytes:
    """Returns an integer as Thrift's compact protocol writes it."""
    number = (value << 1 ^ value >> 63) & (1 << 64) - 1
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    return bytes([*written, number])
