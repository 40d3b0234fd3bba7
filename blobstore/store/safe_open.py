"""`safe_open`: a file opened as safetensors' function of that name opens one, for programs that are ported."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from blobstore.errors import UsageError
from blobstore.fileio.closing import Closing
from blobstore.store.reader import Store

if TYPE_CHECKING:
    from collections.abc import Iterable

    from blobstore.fileio.types import Access, Prefetch, Readable
    from blobstore.store.framework import FrameworkStore
    from blobstore.store.vocabulary import By

# The module that has the library's `open`, by the names that safetensors has for it; blank for numpy.
_FRAMEWORKS = {
    "np": "",
    "numpy": "",
    "pt": "blobstore.torch",
    "torch": "blobstore.torch",
    "pytorch": "blobstore.torch",
    "flax": "blobstore.jax",
    "jax": "blobstore.jax",
}


def safe_open(
    path: Readable,
    framework: str,
    device: Any = "cpu",  # noqa: ANN401 (torch.device, but torch may be missing)
    *,
    access: Access = "auto",
    use_index: bool = True,
    base: Readable | None = None,
    prefetch: Prefetch = "none",
    by: By = "names",
) -> SafeOpen:
    """Open a .sbs file as ``safetensors.safe_open`` opens a safetensors file.

    New programs are shorter with `blobstore.open`, or ``open`` of `blobstore.torch` and `blobstore.jax`: a mapping.

    Args:
        path: As `blobstore.open`.
        framework: Whose arrays to return: ``np`` or ``numpy``; ``pt``, ``torch`` or ``pytorch``; ``flax`` or ``jax``.
        device: Where torch's tensors are put. jax has its own default device.
        access: As `blobstore.open`; ``read`` is what ``backend="pread"`` is in safetensors.
        use_index: As `blobstore.open`.
        base: As `blobstore.open`.
        prefetch: As `blobstore.open`.
        by: As `blobstore.open`.

    Raises:
        UsageError: ``bad-framework``; ``bad-device`` for a device with anything but torch; and as `blobstore.open`.
        MissingExtraError: ``missing-extra``: the framework isn't installed.
        FormatError, TruncatedError, OSError: As `blobstore.open`.

    Example:
        >>> with blobstore.safe_open("model.sbs", framework="np") as file:
        ...     tensors = {name: file.get_tensor(name) for name in file.keys()}
        >>> sorted(tensors) == sorted(blobstore.open("model.sbs"))
        True
    """
    if framework not in _FRAMEWORKS:
        raise UsageError("bad-framework", f"framework is {framework!r}: use one of {', '.join(_FRAMEWORKS)}")
    options: dict[str, Any] = {"access": access, "use_index": use_index, "base": base, "prefetch": prefetch, "by": by}
    module = _FRAMEWORKS[framework]
    if module == "blobstore.torch":
        options["device"] = device
    elif device != "cpu":
        raise UsageError("bad-device", f"device is {device!r}, but only torch's tensors can be put on a device here")
    # By its name: those modules need this folder, and libraries that may be missing.
    return SafeOpen(import_module(module).open(path, **options) if module else Store(path, **options))


class SafeOpen(Closing):
    """A file with the methods of ``safetensors.safe_open``. `safe_open` makes one.

    Example:
        >>> with blobstore.safe_open("model.sbs", framework="np") as file:
        ...     part = file.get_slice("layer.weight")[:2, 4:8]
        >>> part.shape
        (2, 4)
    """

    def __init__(self, store: Store | FrameworkStore[Any]) -> None:
        """Wrap a store; it is closed with this."""
        self._opened: Store | FrameworkStore[Any] | None = store
        self._path = str(store.store.path if hasattr(store, "store") else store.path)

    @property
    def _store(self) -> Any:  # noqa: ANN401 (either: they have the same methods)
        if self._opened is None:
            raise UsageError("closed", f"the file is closed: {self._path}")
        return self._opened

    @property
    def _numpy_store(self) -> Store:
        store: Store = getattr(self._store, "store", self._store)
        return store

    def keys(self) -> list[str]:
        """Return the tensors' names, sorted.

        Raises:
            UsageError: ``closed``, as all methods.
        """
        return sorted(self._store)

    def offset_keys(self) -> list[str]:
        """Return the tensors' names in the order in which the file holds them."""
        infos = sorted(self._numpy_store.infos(), key=lambda info: (*info.address(), info.name))
        return [info.name for info in infos]

    def metadata(self) -> dict[str, str] | None:
        """Return the metadata, text → text; None when there is none."""
        return self._store.metadata or None

    def get_tensor(self, name: str) -> Any:  # noqa: ANN401 (of any framework)
        """Return a tensor, as the framework's store does: a view of the file where that is possible.

        Raises:
            NameNotFoundError: ``name-not-found``.
            CodecError, UsageError: As ``store[name]``.
        """
        return self._store[name]

    def get_tensors(self, names: Iterable[str] | None = None) -> dict[str, Any]:
        """Return tensors by name, all by default, as `get_tensor` does."""
        if not isinstance(self._store, Store):
            tensors: dict[str, Any] = self._store.get_tensors(names)
            return tensors
        return {name: self._store[name] for name in (self._store if names is None else names)}

    def get_slice(self, name: str) -> Any:  # noqa: ANN401 (of any framework)
        """Return a tensor to be read in part: ``file.get_slice(name)[:, 8:16]``.

        Raises:
            NameNotFoundError: ``name-not-found``.
        """
        return self._store.get_slice(name)

    def close(self) -> None:
        """Let go of the file; arrays stay valid."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def __repr__(self) -> str:
        return f"<SafeOpen {self._path!r}{'' if self._opened is not None else ', closed'}>"
