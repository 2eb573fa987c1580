"""A FIDO2 key made of software: an ssh-agent that holds one `sk` key and signs as a token would, touched and verified or not."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KIND = b"sk-ssh-ed25519@openssh.com"
APPLICATION = b"ssh:"
# What the token says its owner did (FIDO2's flags): touched it; gave a PIN or a finger as well.
TOUCHED, VERIFIED = 0x01, 0x05
# The agent protocol's numbers.
LIST, KEYS, SIGN, SIGNED, FAILURE = 11, 12, 13, 14, 5


def field(data: bytes) -> bytes:
    """A string as SSH writes it: its length, then itself."""
    return struct.pack(">I", len(data)) + data


class FidoKey:
    """One key; `agent()` offers it to ssh."""

    def __init__(self) -> None:
        self.private = Ed25519PrivateKey.generate()
        self.blob = field(KIND) + field(self.private.public_key().public_bytes_raw()) + field(APPLICATION)
        self.public = f"{KIND.decode()} {base64.b64encode(self.blob).decode()} a token"

    @contextlib.contextmanager
    def agent(self, flags: int) -> Iterator[str]:
        """The socket of an agent whose token says `flags` with each signature."""
        with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as server:
            path = Path(directory) / "agent"
            server.bind(str(path))
            server.listen()
            threading.Thread(target=self._serve, args=(server, flags), daemon=True).start()
            yield str(path)
            server.shutdown(socket.SHUT_RDWR)

    def _serve(self, server: socket.socket, flags: int) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = server.accept()
                with link, link.makefile("rwb") as stream:
                    self._talk(stream, flags)

    def _talk(self, stream: BinaryIO, flags: int) -> None:
        while len(size := stream.read(4)) == 4:
            request = stream.read(int.from_bytes(size, "big"))
            answer = bytes([FAILURE])
            if request[0] == LIST:
                answer = bytes([KEYS]) + struct.pack(">I", 1) + field(self.blob) + field(b"a token")
            elif request[0] == SIGN:
                data = request[1 + len(field(self.blob)) :]
                answer = bytes([SIGNED]) + field(self.signature(data[4 : 4 + int.from_bytes(data[:4], "big")], flags))
            stream.write(field(answer))
            stream.flush()

    def signature(self, data: bytes, flags: int) -> bytes:
        """What a token signs: for which application, what its owner did, how often it was used, and the data."""
        said = bytes([flags]) + struct.pack(">I", 1)
        signed = self.private.sign(hashlib.sha256(APPLICATION).digest() + said + hashlib.sha256(data).digest())
        return field(KIND) + field(signed) + said
