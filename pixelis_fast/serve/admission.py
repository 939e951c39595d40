"""How many completions may run or wait: above, 429 and a guess of when to come back."""

from __future__ import annotations

from pixelis_fast.serve.errors import ApiError, busy

SMOOTHING = 0.1
"""Weight of the latest completion in the mean duration."""


class Admission:
    """Counts places; used from the event loop's thread alone.

    Example:
        place = admission.enter()
        place.grow(3)
        place.leave(seconds)
    """

    def __init__(self, max_requests: int) -> None:
        self._max_requests = max_requests
        self.num_inside = 0
        self.is_draining = False
        """True while the server stops: nobody new comes in."""
        self._mean_s = 1.0

    def enter(self) -> Place:
        """One place, before the request is even read."""
        place = Place(self)
        place.grow(1)
        return place

    def take(self, count: int) -> None:
        if self.is_draining:
            raise ApiError("server: expected one that runs, got one that stops", status=503)
        if self.num_inside + count > self._max_requests:
            raise busy(
                f"server: expected at most {self._max_requests} completions at a time, "
                f"got {count} more than {self.num_inside}",
                retry_after_s=self._mean_s,
            )
        self.num_inside += count

    def give_back(self, count: int, seconds: float | None) -> None:
        self.num_inside -= count
        if seconds is not None:
            self._mean_s += SMOOTHING * (seconds - self._mean_s)


class Place:
    """What one request has taken."""

    def __init__(self, admission: Admission) -> None:
        self._admission, self._count = admission, 0

    def grow(self, count: int) -> None:
        """ApiError 429 when there is no room; what was taken before stays taken."""
        self._admission.take(count)
        self._count += count

    def leave(self, seconds: float | None = None) -> None:
        """Gives all back, once; `seconds` is how long they were used."""
        self._admission.give_back(self._count, seconds)
        self._count = 0
