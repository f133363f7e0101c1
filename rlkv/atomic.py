"""Write a file, or more of one, whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import BinaryIO


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by a file that holds ``text`` in UTF-8; see ``write_bytes``."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` by a file that holds ``content``.

    The content goes to a temporary file in the same folder, to disk, and only then takes the name: a full
    disk or a kill at any point leaves the old file as it was.

    Raises:
        OSError: the content could not be stored; the temporary file is gone and the old file untouched.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), _mode(path))
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise
    _sync_folder(path.parent)


def append(file: BinaryIO, content: bytes) -> None:
    """Put ``content`` on disk at the position of an open file.

    Args:
        file: unbuffered, or what a full disk refused would be written once more when it is closed.
        content: what is appended.

    Raises:
        OSError: the content could not be stored; the file ends where it ended before.
    """
    start = file.tell()
    try:
        while content:  # a write may stop short, as it does when the disk fills up
            content = content[file.write(content) :]
        os.fsync(file.fileno())
    except OSError:
        file.truncate(start)
        file.seek(start)
        raise


def _mode(path: Path) -> int:
    """Permissions of the file to be replaced, or those that a plain ``open`` would have given."""
    try:
        return path.stat().st_mode & 0o777
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
