"""What a process in the sandbox does to itself before it runs code. Standard library only: it is read inside."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
from collections.abc import Iterable, Mapping

_libc = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_KEEPCAPS = 1, 4, 8
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 22, 38, 47
_CAP_DAC_READ_SEARCH = 2
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # the same on every architecture
_MNT_DETACH = 2
_NOSUID_NODEV_NOEXEC = 2 | 4 | 8
# By version of landlock: the rights over files it knows (1 to 5), over TCP (4), and its scopes (6).
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _prctl(option: int, *values: int) -> None:
    padded = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    _checked(_libc.prctl(option, *padded), f"prctl {option}")


def undumpable() -> None:
    """Nobody without more privilege may look into this process's memory or trace it."""
    _prctl(_PR_SET_DUMPABLE, 0)


def become(uid: int, keep_reading: bool) -> None:
    """Become another user for good. ``keep_reading`` keeps the one capability that passes folders closed to it."""
    if keep_reading:
        _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def drop_capabilities(keep_reading: bool) -> None:
    """Give up every capability but, where ``keep_reading`` says so, that one."""
    kept = 1 << _CAP_DAC_READ_SEARCH if keep_reading else 0
    _prctl(_PR_CAP_AMBIENT, 4)  # clear all
    header = struct.pack("=Ii", 0x20080522, 0)
    _checked(_libc.capset(header, struct.pack("=6I", kept, kept, 0, 0, 0, 0)), "capset")


def limit(limits: Mapping[str, int]) -> None:
    """Set resource limits, soft and hard alike, by the names of `resource` without ``RLIMIT_``."""
    for name, value in limits.items():
        number = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(number)[1]
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (most, most))


def die_with_parent() -> None:
    """This process is killed when the one that forked it ends. Becoming another user undoes it, so it comes after."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def no_new_privileges() -> None:
    """Nothing that this process runs gains privileges by it."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def landlock_version() -> int:
    """The version of landlock that the kernel has and lets us use; 0 for none."""
    return max(0, _libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(1)))


def readable_only(files: Iterable[str], listed: Iterable[str]) -> int:
    """A landlock ruleset that lets ``files``, or all below them, be read, and ``listed`` folders be listed, no more.

    It also forbids TCP, signals to others and foreign abstract sockets where the kernel's landlock knows of them.
    """
    version = landlock_version()
    if version < 1:
        raise OSError("this kernel has no landlock")
    handled = _FILE_RIGHTS[min(version, 5)]
    attributes = struct.pack("=QQQ", handled, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    made = _libc.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(size), ctypes.c_uint(0))
    ruleset = _checked(made, "landlock_create_ruleset")
    for path in files:
        _allow(ruleset, path, _READ_FILE | (_READ_DIR if os.path.isdir(path) else 0))
    for path in listed:
        _allow(ruleset, path, _READ_DIR)
    return ruleset


def _allow(ruleset: int, path: str, rights: int) -> None:
    at = os.open(path, os.O_PATH | os.O_CLOEXEC)
    added = _libc.syscall(_LANDLOCK_ADD, ruleset, 1, struct.pack("=Qi", rights, at), ctypes.c_uint(0))
    os.close(at)
    _checked(added, f"landlock_add_rule {path}")


def restrict_files(ruleset: int) -> None:
    """Hold this process to a ruleset of `readable_only`; it needs `no_new_privileges` first."""
    _checked(_libc.syscall(_LANDLOCK_RESTRICT, ruleset, ctypes.c_uint(0)), "landlock_restrict_self")


def filter_calls(program: bytes) -> None:
    """Put a seccomp filter on this process and all that it starts."""
    code = ctypes.create_string_buffer(program, len(program))
    head = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))
    _prctl(_PR_SET_SECCOMP, 2, ctypes.addressof(head))


def mount_scratch(place: str, uid: int, megabytes: float) -> None:
    """A file system in memory of that size, for that user, with 16 files a mebibyte at least 256."""
    files = max(256, int(megabytes * 16))
    options = f"size={int(megabytes * 2**20)},nr_inodes={files},mode=700,uid={uid},gid={uid}"
    mounted = _libc.mount(b"scratch", place.encode(), b"tmpfs", ctypes.c_ulong(_NOSUID_NODEV_NOEXEC), options.encode())
    _checked(mounted, "mount of the scratch space")


def unmount(place: str) -> None:
    """Take a mount away, whoever still uses it."""
    _checked(_libc.umount2(place.encode(), _MNT_DETACH), f"umount {place}")
