"""Named functions to choose from: a plain dict that refuses duplicates and helps with misspelt names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Generic, TypeVar

from autoseg.core.errors import UsageError

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps a name to a registered function (or class).

    >>> losses: Registry[Callable[..., float]] = Registry("loss")
    >>> @losses.register("zero")
    ... def zero() -> float:
    ...     return 0.0
    >>> losses["zero"]()
    0.0
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that enters its function under `name`, unchanged; a name is given only once."""

        def enter(entry: T) -> T:
            assert name not in self._entries, f"{self.kind} {name!r} is registered twice"
            self._entries[name] = entry
            return entry

        return enter

    def __getitem__(self, name: str) -> T:
        """The entry called `name`; where there is none, UsageError tells the nearest name and all choices."""
        if name in self._entries:
            return self._entries[name]
        nearest = get_close_matches(name, self._entries, n=1, cutoff=0.4)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        choices = ", ".join(sorted(self._entries)) or "none is registered"
        raise UsageError(f"unknown {self.kind} {name!r}; {hint}choose from: {choices}")

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)
