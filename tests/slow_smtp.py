"""A mail server that takes its time."""

import socket
import time

from tests.smtp_servers import ScriptedSmtp


class SlowSmtp(ScriptedSmtp):
    """Takes so many seconds for every mail; notes by the monotonic clock when each begins."""

    def __init__(self, seconds: float = 0) -> None:
        super().__init__()
        self.seconds = seconds
        self.begun: list[float] = []

    def _answer(self, connection: socket.socket, step: str) -> str:
        if step == "mail":
            self.begun.append(time.monotonic())
        if step == "content":
            time.sleep(self.seconds)
        return super()._answer(connection, step)
