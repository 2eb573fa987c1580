"""The line of any length that the benches measure over: it is as long as it says, loses nothing, and counts right."""

from __future__ import annotations

import os
import socket
import threading
import time

from kit.delay import Line


def answer(link: socket.socket, said: bytes) -> bytes:
    """What comes back, as much as was said."""
    threading.Thread(target=link.sendall, args=(said,)).start()
    heard = b""
    while len(heard) < len(said) and (piece := link.recv(65536)):
        heard += piece
    return heard


def test_a_question_takes_one_round_trip_and_much_takes_no_more() -> None:
    """The line is long, not narrow: what is said at once arrives at once, in its order."""
    much = os.urandom(200_000)
    with Line(["cat"]) as line, socket.create_connection(("127.0.0.1", line.port), timeout=20) as link:
        assert answer(link, b"at no distance") == b"at no distance"
        line.round_trip = 0.3
        for said in (b"far", much):
            began = time.monotonic()
            assert answer(link, said) == said
            assert 0.3 <= time.monotonic() - began < 3
        assert line.turns == 3


def test_who_is_hung_up_on_finds_an_end() -> None:
    """So does the command; a new caller is answered."""
    with Line(["cat"], ["127.0.0.1", "127.0.0.2"]) as line:
        with socket.create_connection(("127.0.0.1", line.port), timeout=20) as link:
            assert answer(link, b"here") == b"here"
            line.cut()
            assert link.recv(1) == b""
        with socket.create_connection(("127.0.0.2", line.port), timeout=20) as link:
            assert answer(link, b"again") == b"again"
