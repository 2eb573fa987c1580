"""The codes of people who are tests: each is used once, as the server takes it once."""

from __future__ import annotations

import time
from pathlib import Path

from practice.totp import STEP, code


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
