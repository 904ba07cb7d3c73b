"""What the commands print: on any terminal, whatever stands in the names."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any

#: Characters that move the cursor, begin an escape code or turn the text around; then surrogates,
#: but for those that stand for a byte of a file's name.
UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]|[\ud800-\udc7f\udd00-\udfff]"
)


def printable(text: object) -> str:
    """Return a name or a message as one line that any terminal can print, the rest as escapes."""
    shown = UNPRINTABLE.sub(lambda one: one[0].encode("unicode_escape").decode(), str(text))
    return shown.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def say(line: object) -> None:
    """Print one line of results."""
    print(printable(line), flush=True)


def note(sentence: object) -> None:
    """Print a message to stderr, apart from the results on stdout."""
    print(f"cmssf: {printable(sentence)}", file=sys.stderr)


class _Lasting:
    """A stream that prints what its encoding lacks, and nothing more once its reader is gone."""

    def __init__(self, stream: Any, faults: list[OSError]) -> None:
        self.stream, self.faults = stream, faults
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        with self._going_on():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._going_on():
            self.stream.flush()

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.faults.append(error)
            with suppress(OSError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self.stream.fileno())


@contextmanager
def lasting() -> Iterator[list[OSError]]:
    """Let a command finish its work even if nobody reads what it prints any more.

    Yields:
        A list that collects the errors of writing to stdout.
    """
    faults = list[OSError]()
    out = sys.stdout and _Lasting(sys.stdout, faults)  # None: there is none
    err = sys.stderr and _Lasting(sys.stderr, [])
    with redirect_stdout(out), redirect_stderr(err):
        try:
            yield faults
        finally:
            print(end="", flush=True)
