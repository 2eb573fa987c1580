"""A line of any length: a port on 127.0.0.1 that leads to the standard input of a command, later by what light would take.

There is no netem on many machines, and none is needed. What goes over TCP (Nagle's wait for an acknowledgement, say) ends at this
port, so a far client is at most worse off than it is here.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Self

PIECE = 1 << 16


class Line:
    """`with Line(["nc", …]) as line:` each connection to `line.port` starts the command, and talks to it."""

    def __init__(self, command: Sequence[str], addresses: Sequence[str] = ("127.0.0.1",)) -> None:
        """The same port at each of the `addresses`."""
        self.command, self.addresses, self.port = list(command), list(addresses), 0
        self.round_trip = 0.0  # seconds; may be changed while connections are open
        self.turns = 0  # how often a client spoke after it was answered, or first: what the line's length is paid for
        self._calls: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._hang_up())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def cut(self) -> None:
        """Hang up on everybody: each command finds its standard input at an end, and ends."""
        self._call(self._cut())

    def _call(self, work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()  # type: ignore[arg-type]

    async def _listen(self) -> None:
        self._servers = []
        for address in self.addresses:
            self._servers.append(await asyncio.start_server(self._serve, address, self.port))
            self.port = self._servers[0].sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        for caller in self._calls.values():
            caller.close()
        await asyncio.gather(*self._calls)

    async def _hang_up(self) -> None:
        for server in self._servers:
            server.close()
        await self._cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._calls[task] = writer
        await asyncio.sleep(self.round_trip)  # the greeting of TCP
        pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.DEVNULL}
        process = await asyncio.create_subprocess_exec(*self.command, **pipes)
        assert process.stdin is not None and process.stdout is not None
        answered = [True]
        there, back = self._carry(reader, process.stdin, answered, True), self._carry(process.stdout, writer, answered, False)
        await asyncio.gather(there, back, return_exceptions=True)
        await process.wait()
        del self._calls[task]

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, answered: list[bool], from_client: bool) -> None:
        """Pass on what comes, in its order, each piece half a round trip after it came; the end too."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, piece = await under_way.get()
                await asyncio.sleep(due - self._loop.time())
                if not piece:
                    target.close()
                    return
                if not from_client:
                    answered[0] = True
                target.write(piece)
                await target.drain()

        delivery = asyncio.create_task(deliver())
        piece = b"-"
        while piece:
            try:
                piece = await source.read(PIECE)
            except ConnectionError:  # hung up in the middle of a word: an end as well
                piece = b""
            if from_client and piece and answered[0]:
                self.turns, answered[0] = self.turns + 1, False
            under_way.put_nowait((self._loop.time() + self.round_trip / 2, piece))
        await delivery
