"""One-time codes: right by the standard's own examples, and never the same twice."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from kit import totp

SEED = base64.b32encode(b"12345678901234567890").decode()


@pytest.mark.parametrize(("now", "digits"), [(59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (20000000000, "353130")])
def test_the_examples_of_rfc_6238(now: int, digits: str) -> None:
    """Appendix B, SHA-1; the last six of its eight digits."""
    assert totp.code(SEED, now // totp.STEP) == digits


def test_a_code_is_spent_once(tmp_path: Path) -> None:
    """Three log-ins within one step use three steps that the server accepts: the last, this, the next."""
    seed = tmp_path / "amina"
    seed.write_text(SEED)
    now = 1234567890.0
    codes = [totp.fresh_code(seed, now) for _ in range(3)]
    assert codes == [totp.code(SEED, int(now) // totp.STEP + offset) for offset in (-1, 0, 1)]
