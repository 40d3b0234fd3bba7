"""Files of other formats, by their first bytes: what people pass by mistake, and the fix."""

from __future__ import annotations

HEAD_NBYTES = 64  # enough to recognise all of them
_FORMATS = {
    b"GGUF": "a GGUF file: name it .gguf, and blobstore convert reads it",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a .npy file: save its array as safetensors first",
    b"SBSI": "a name index: open the file beside it, or a set by its path",
    b"\x28\xb5\x2f\xfd": "a zstd file, decompress it first",
    b"\x1f\x8b": "a gzip file, decompress it first",
    b"version h": "a Git LFS pointer, fetch the file itself: git lfs pull",
}
_PAGES = (b"<!do", b"<htm", b"<?xml")
_PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_ZIP_FILE = "a zip file (npz or a PyTorch checkpoint?): save its tensors as safetensors first"
ZIP = b"PK\3\4"
_BLANKS = b"\xef\xbb\xbf \t\r\n"


def may_be_pytorch(head: bytes) -> bool:
    """Whether a file may be in PyTorch's pickled format, by its first bytes, `HEAD_NBYTES` if it has so many."""
    return head.startswith((ZIP, *_PICKLES)) and b".npy" not in head


def foreign_format(head: bytes) -> str:
    """Say what a file is that isn't what was expected, and what to do.

    Args:
        head: Its first bytes; up to 64 are looked at.

    Returns:
        Such as ``a gzip file, decompress it first``; empty if nothing is recognised.
    """
    if head.lstrip(_BLANKS).lower().startswith(_PAGES):
        return "a web page, not the download: download the file again, logged in if it needs that"
    if head.startswith(ZIP):
        return "an npz file: save its arrays as safetensors first" if b".npy" in head else _ZIP_FILE
    if head.startswith(_PICKLES):
        return "a pickle (a PyTorch checkpoint?): save it as safetensors first"
    return next((what for beginning, what in _FORMATS.items() if head.startswith(beginning)), "")
