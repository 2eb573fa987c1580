"""`@claim("FW-01", broken_by=…, symptom=…)`: the one proof of a promise in claims.yaml, and the proof that the proof can fail."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from testinfra.host import Host

from kit import register

Breaker = Callable[[Host], object]


def claim(id: str, *, broken_by: Breaker, symptom: str, undo: Breaker | None = None) -> pytest.MarkDecorator:
    """Mark a test as the proof of claim `id`. Raises RegisterError at import for an id that claims.yaml does not know.

    `broken_by(host)` types one line that an attacker or a tired administrator could type; the test must then fail with an
    AssertionError that contains `symptom`; then the claim's role alone is run, and must heal it. `undo(host)` is only for
    what a role must not heal; it runs before the role does.
    """
    register.claim(id)
    return pytest.mark.claim(id, broken_by=broken_by, symptom=symptom, undo=undo)
