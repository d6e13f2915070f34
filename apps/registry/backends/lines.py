"""Cuts what a server sends into lines, of which none can fill the memory."""

from dataclasses import dataclass

_KEPT_OF_A_LONG_LINE = 512


@dataclass(frozen=True, slots=True)
class LongLine:
    """What is left of a line that was too long to keep: its beginning and its end."""

    ends: bytes


class Lines:
    """Cuts a stream of bytes into lines and never holds more than the limit of one."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._tail = b""

    @property
    def is_too_long(self) -> bool:
        """Whether the line that has begun is longer than the limit already."""
        return self._size > self._limit

    @staticmethod
    def cut(line: bytes) -> LongLine:
        """What is kept of a line that is too much for another reason than its length."""
        return LongLine(line[:_KEPT_OF_A_LONG_LINE] + b"\n" + line[-_KEPT_OF_A_LONG_LINE:])

    def feed(self, chunk: bytes) -> list[bytes | LongLine]:
        """The lines that this chunk completes, without their ends."""
        *ended, rest = chunk.split(b"\n")
        lines: list[bytes | LongLine] = []
        for piece in ended:
            self._add(piece)
            lines.append(self._take())
        self._add(rest)
        return lines

    def _add(self, piece: bytes) -> None:
        was_too_long = self.is_too_long
        self._size += len(piece)
        if not self.is_too_long:
            self._parts.append(piece)
            return
        if not was_too_long:
            whole = b"".join([*self._parts, piece])
            self._parts, piece = [whole[:_KEPT_OF_A_LONG_LINE]], whole
        self._tail = (self._tail + piece)[-_KEPT_OF_A_LONG_LINE:]

    def _take(self) -> bytes | LongLine:
        line: bytes | LongLine = b"".join(self._parts).removesuffix(b"\r")
        if self.is_too_long:
            line = LongLine(self._parts[0] + b"\n" + self._tail)
        self._parts, self._size, self._tail = [], 0, b""
        return line
