"""Whether this process has been told to stop, and until when it may finish what it answers."""

import time
from dataclasses import dataclass


@dataclass(slots=True)
class Stopping:
    """Told by a signal handler, looked at by whoever would go on without end."""

    is_told: bool = False
    until: float = 0.0

    def tell(self, seconds: float) -> None:
        """There are so many seconds left; those who only listen are let go at once."""
        self.is_told, self.until = True, time.monotonic() + seconds

    @property
    def seconds_left(self) -> float:
        """How long what is under way may still take; 0 where nobody has told it to stop."""
        return max(0.0, self.until - time.monotonic()) if self.is_told else 0.0


stopping = Stopping()
"""Of this process: it stops once."""
