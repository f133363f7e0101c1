"""What a sandboxed process may touch: namespaces, a file system of its own, an unprivileged user, limits.

Inside there is no network, no other process, and no file but the interpreter's and the system's libraries
(read-only) and an empty ``/tmp`` in memory. Root becomes ``nobody``; anyone else gets a user namespace, which
the system must allow to unprivileged users.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import sysconfig
from pathlib import Path

NOBODY = 65534
MEMORY_BYTES = 1024**3
FILE_BYTES = 16 * 1024**2

_NEW_MOUNT, _NEW_UTS, _NEW_IPC, _NEW_USER = 0x20000, 0x4000000, 0x8000000, 0x10000000
_NEW_PID, _NEW_NET = 0x20000000, 0x40000000
_BIND, _RECURSIVE, _PRIVATE = 0x1000, 0x4000, 1 << 18
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_AT_FDCWD, _AT_RECURSIVE, _DETACH = -100, 0x8000, 2
_SET_DEATH_SIGNAL, _SET_NO_NEW_PRIVILEGES = 1, 38
_CAPABILITY_VERSION_3 = 0x20080522
_CALLS = {"x86_64": {"pivot_root": 155, "capset": 126}, "aarch64": {"pivot_root": 41, "capset": 91}}
_MOUNT_SETATTR = 442  # on every architecture

_STAGE = "/proc"
"""Where the new root is put together: a folder that every system has and that no interpreter lies in."""

_LIBC = ctypes.CDLL(None, use_errno=True)


def enter_namespaces() -> None:
    """Move this process into namespaces of its own; its next child is alone in the process namespace.

    Raises:
        OSError: the system does not allow it, or is none of Linux 5.12 or later on x86-64 or ARM64.
    """
    if platform.system() != "Linux" or platform.machine() not in _CALLS:
        raise OSError(f"found {platform.system()} on {platform.machine()}")
    spaces = _NEW_MOUNT | _NEW_UTS | _NEW_IPC | _NEW_PID | _NEW_NET
    if os.geteuid() == 0:
        _call("unshare", _LIBC.unshare(spaces))
    else:
        user, group = os.geteuid(), os.getegid()
        _call("unshare", _LIBC.unshare(spaces | _NEW_USER))
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{NOBODY} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{NOBODY} {group} 1")
    _change_root()


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends."""
    _call("prctl", _LIBC.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0))


def give_up_privileges() -> None:
    """Become nobody without capabilities, for good; call in the namespaces' first process."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _call("capset", _LIBC.syscall(_CALLS[platform.machine()]["capset"], header, (ctypes.c_uint32 * 6)()))
    _call("prctl", _LIBC.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0))


def limit_resources(cpu_seconds: int) -> None:
    """Bound memory, processor time, files and, to this one, processes."""
    limits = {
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_NPROC: 1,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in limits.items():
        resource.setrlimit(kind, (value, value))


def _change_root() -> None:
    """Leave the file system for one in memory that holds the libraries, read-only, and ``/tmp``."""
    _mount(None, "/", None, _RECURSIVE | _PRIVATE)
    _mount("tmpfs", _STAGE, "tmpfs", 0, "size=1m,mode=755")
    for folder in _library_folders():
        inside = f"{_STAGE}{folder}"
        Path(inside).mkdir(parents=True, exist_ok=True)
        _mount(os.path.realpath(folder), inside, None, _BIND | _RECURSIVE)
        _set_attributes(inside, _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV, _AT_RECURSIVE)
    temporary = Path(_STAGE, "tmp")
    temporary.mkdir(exist_ok=True)
    _mount("tmpfs", str(temporary), "tmpfs", 0, f"size={FILE_BYTES},nr_inodes=1000,mode=1777")
    _set_attributes(str(temporary), _ATTR_NOSUID | _ATTR_NODEV, 0)
    os.chdir(_STAGE)
    _call("pivot_root", _LIBC.syscall(_CALLS[platform.machine()]["pivot_root"], b".", b"."))
    _call("umount", _LIBC.umount2(b".", _DETACH))
    os.chdir("/tmp")
    _set_attributes("/", _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV, 0)


def _library_folders() -> list[str]:
    """The folders that a running interpreter still imports from, outer ones first."""
    own = {os.path.dirname(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}  # noqa: PTH120
    folders = sorted(f for f in {*own, "/lib", "/lib64", "/usr/lib"} if Path(f).is_dir())
    return [f for f in folders if not any(f.startswith(f"{outer}/") for outer in folders)]


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    names = [name.encode() if name is not None else None for name in (source, target, kind)]
    _call(f"mount {target}", _LIBC.mount(*names, ctypes.c_ulong(flags), options.encode()))


def _set_attributes(target: str, attributes: int, flags: int) -> None:
    """Restrict a mount; attributes it already has stay."""
    settings = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    result = _LIBC.syscall(
        _MOUNT_SETATTR, _AT_FDCWD, target.encode(), flags, settings, ctypes.c_size_t(ctypes.sizeof(settings))
    )
    _call(f"mount_setattr {target}", result)


def _call(name: str, result: int) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
