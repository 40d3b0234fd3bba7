"""What the end of a ``with`` block does: close what is read; complete or give up what is written."""

from __future__ import annotations

from typing import Any, Self

from blobstore.errors import UsageError

# Not on contextlib.AbstractContextManager: its `__enter__` isn't typed to return Self.


class Closing:
    """Closed at the end of a ``with`` block."""

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy would close the same file; in another process the descriptor is another file's.
        message = f"an open {type(self).__name__} can't be copied or pickled: open the file again"
        raise UsageError("not-copyable", message)

    def close(self) -> None:
        """Let go of it."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Completing:
    """Completed at the end of a ``with`` block, and given up if an error ends it."""

    def close(self) -> None:
        """Complete it."""
        raise NotImplementedError

    def discard(self) -> None:
        """Give it up; nothing is left behind."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        if error_type is None:
            self.close()
        else:
            self.discard()
