"""A small database stand-in for tests of the gate: answers each line, `later SECONDS` only after so many seconds."""

from __future__ import annotations

import socket
import threading
import time


class EchoServer:
    """Listens in the namespace of the thread that makes it. `answered`: what it wrote, whether or not that left."""

    def __init__(self, address: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._server = socket.create_server((address, port), family=family, dualstack_ipv6=address == "::")
        self._open: list[socket.socket] = []
        self.answered: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for connection in [self._server, *self._open]:
            try:
                connection.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits on it; close() alone would not
            except OSError:
                pass  # it was cut already
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection.makefile("r") as lines:
                for line in lines:
                    if line.startswith("later "):
                        time.sleep(float(line.split()[1]))
                    connection.sendall(line.encode())
                    self.answered.append(line.strip())
        except (OSError, ValueError):
            return  # the connection was cut: what these tests are about


class Client:
    """One connection from the namespace of the thread that makes it."""

    def __init__(self, address: str, port: int, timeout_s: float = 0.6) -> None:
        self.socket = socket.create_connection((address, port), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, line: str = "hello") -> str:
        self.socket.sendall(f"{line}\n".encode())
        return self.answer()

    def answer(self) -> str:
        answer = self.socket.recv(200)
        if not answer:
            raise ConnectionError("the server closed the connection")
        return answer.decode().strip()

    def close(self) -> None:
        self.socket.close()
