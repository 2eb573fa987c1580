"""Time-based one-time codes (RFC 6238, SHA-1, 6 digits, 30 s), for people who are tests and for checking an enrolment."""

from __future__ import annotations

import base64
import hmac
import struct
import time
from pathlib import Path

STEP = 30


def code(seed: str, step: int) -> str:
    """The six digits that `seed` (base32) gives for time step `step`."""
    digest = hmac.digest(base64.b32decode(seed.upper() + "=" * (-len(seed) % 8)), struct.pack(">Q", step), "sha1")
    start = digest[-1] & 15
    return f"{(struct.unpack('>I', digest[start : start + 4])[0] & 0x7FFFFFFF) % 10**6:06d}"


def fresh_code(seed_file: Path, now: float | None = None) -> str:
    """A code that was not used before: the server takes each once.

    One step either side of now is accepted there, so the steps from one before to one after are spent in turn; when all are
    spent, this waits for the next. The last step spent is kept beside the seed.
    """
    spent_file = seed_file.with_suffix(".spent")
    spent = int(spent_file.read_text()) if spent_file.exists() else 0
    current = int((now if now is not None else time.time()) // STEP)
    step = max(current - 1, spent + 1)
    if step > current + 1:
        time.sleep((step - 1) * STEP - time.time())
    spent_file.write_text(str(step))
    return code(seed_file.read_text().strip(), step)


if __name__ == "__main__":
    import sys

    print(fresh_code(Path(sys.argv[1])))
