"""Time-based one-time codes (RFC 6238, SHA-1, 6 digits, 30 s)."""

from __future__ import annotations

import base64
import hmac
import struct

STEP = 30


def code(seed: str, step: int) -> str:
    """The six digits that `seed` (base32) gives for time step `step`."""
    digest = hmac.digest(base64.b32decode(seed.upper() + "=" * (-len(seed) % 8)), struct.pack(">Q", step), "sha1")
    start = digest[-1] & 15
    return f"{(struct.unpack('>I', digest[start : start + 4])[0] & 0x7FFFFFFF) % 10**6:06d}"


def accepts(seed: str, typed: str, now: float) -> bool:
    """Whether `typed` is a code of now, or of one step either side, as the door takes them."""
    return typed in [code(seed, int(now // STEP) + off) for off in (-1, 0, 1)]
