"""What a ``with`` block does when it ends: close what is read, complete or give up what is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, Self, SupportsIndex

from blobstore.errors import UsageError

if TYPE_CHECKING:
    from types import TracebackType


class Closing:
    """What a ``with`` block closes when it ends."""

    def __reduce_ex__(self, _protocol: SupportsIndex) -> NoReturn:
        # Two would close the same file, and one in another process is another file.
        what = f"an open {type(self).__name__} can't be copied or pickled: open the file once more"
        raise UsageError("not-copyable", what)

    def close(self) -> None:
        """Let go of it."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Completing:
    """What a ``with`` block completes when it ends, and gives up when an error ends it."""

    def close(self) -> None:
        """Complete it."""
        raise NotImplementedError

    def discard(self) -> None:
        """Give it up; nothing is left behind."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()
