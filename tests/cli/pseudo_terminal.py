"""A child process on a terminal of ours."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios

PROMPT = re.compile(r"\n(\x1b\[\?2004h)?> ")  # with readline's switch for pasted text
CHILD = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C on this terminal reaches this process
import fake_model
{setup}
from nybble.cli import main
sys.exit(main())
"""


class Terminal:
    """`nybble ...` in a child whose standard streams are a terminal, `columns` wide."""

    def __init__(self, *argv, setup="fake_model.install()", columns=100, command=None):
        code = CHILD.format(setup=setup)
        path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
        self.controller, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            command or [sys.executable, "-c", code, *argv],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**os.environ, "PYTHONPATH": path, "TERM": "dumb", "INPUTRC": os.devnull},
            start_new_session=True,
        )
        os.close(terminal)
        self.seen = ""

    def until(self, text):
        """Read until `text` was printed; return what came before it since the last call."""
        if not text:
            return ""
        while text not in self.seen:
            assert self.read(30), f"waited for {text!r}, saw {self.seen!r}"
        before, _, self.seen = self.seen.partition(text)
        return before

    def until_prompt(self):
        """Read until the chat waits for a line. What is typed before that may be lost: the
        terminal is set up anew for each line."""
        while (found := PROMPT.search(self.seen)) is None:
            assert self.read(30), f"waited for a prompt, saw {self.seen!r}"
        self.seen = self.seen[found.end() :]

    def say(self, line, answer="", enter="\n"):
        """Type a line at the chat's prompt, and read until `answer` was printed; return what came
        before that."""
        self.until_prompt()
        self.type(line + enter)
        return self.until(answer)

    def leave(self, typed="\x04"):
        """Leave the chat at its prompt, by Ctrl-D unless told otherwise; return the exit code."""
        self.until_prompt()
        self.type(typed)
        return self.end()

    def read(self, timeout_s):
        """Read what is there, waiting for it if need be; whether there was anything."""
        ready, _, _ = select.select([self.controller], [], [], timeout_s)
        if ready:
            self._take(os.read(self.controller, 4096))
        return bool(ready)

    def _take(self, piece):
        self.seen += piece.decode().replace("\x07", "")  # a bell is not seen

    def interrupt_until(self, text):
        """Press Ctrl-C until `text` is printed.

        Between printing the prompt and waiting for a key Python's input() does not hear it, and
        a test is quick enough to press it then.
        """
        for _ in range(30):
            self.type("\x03")
            while self.read(1):
                if text in self.seen:
                    return self.until(text)
        raise AssertionError(f"interrupted in vain for {text!r}, saw {self.seen!r}")

    def type(self, text):
        os.write(self.controller, text.encode())

    def end(self):
        """Wait for the end; return the exit code."""
        try:
            while self.read(30):
                pass
        except OSError:
            pass  # the terminal's other side is closed
        os.close(self.controller)
        return self.process.wait(30)
