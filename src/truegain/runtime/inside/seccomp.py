"""The filter of system calls: a BPF program, assembled here. Standard library only: it is read inside the sandbox.

Arguments are compared by their low 32 bits, which is all the kernel reads of those examined here.
"""

from __future__ import annotations

import errno
import struct

from .syscalls import ALLOWED, BOXED, EXAMINED, REFUSED, numbers

ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
OWN_PID = 0x7EADBEEF
"""Stands in a program of `assemble` for the process's own number, see `fitted`."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_NR, _ARCH, _ARGS = 0, 4, 16
_NEW_NAMESPACE, _CLONE_PARENT, _CLONE_THREAD = 0x7E020000, 0x8000, 0x10000
_FOREIGN_FCNTL = (8, 10, 15, 1024, 1026, 1031)  # SETOWN, SETSIG, SETOWN_EX, SETLEASE, NOTIFY, SETPIPE_SZ
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
_PRCTLS = (2, 3, 15, 16, 0x53564D41)  # PDEATHSIG and DUMPABLE to read, NAME, and the name of a mapping

_Op = tuple[int, int, int, int]


def _op(code: int, k: int, yes: int = 0, no: int = 0) -> _Op:
    return code, yes, no, k


def _fail(number: int) -> _Op:
    return _op(_RETURN, _ERRNO | number)


def _arg(index: int) -> _Op:
    return _op(_LOAD, _ARGS + 8 * index)


def _one_of(index: int, values: tuple[int, ...], hit: _Op, miss: _Op) -> list[_Op]:
    tests = [op for value in values for op in (_op(_EQUAL, value, 0, 1), hit)]
    return [_arg(index), *tests, miss]


def _examined(boxed: bool) -> dict[str, list[_Op]]:
    """For each examined call, what decides on its arguments; every branch returns."""
    allow, refuse = _op(_RETURN, _ALLOW), _fail(errno.EPERM)
    own = _one_of(0, (OWN_PID,), allow, refuse)
    thread = [] if boxed else [_op(_ANY_BIT, _CLONE_THREAD, 1, 0), refuse]
    return {
        "clone": [_arg(0), _op(_ANY_BIT, _NEW_NAMESPACE | _CLONE_PARENT, 0, 1), refuse, *thread, allow],
        "fcntl": _one_of(1, _FOREIGN_FCNTL, refuse, allow),
        "ioctl": _one_of(1, _IOCTLS, allow, _fail(errno.ENOTTY)),
        "kill": [allow] if boxed else own,
        "tgkill": [allow] if boxed else own,
        "prctl": _one_of(0, _PRCTLS, allow, refuse),
        "prlimit64": _one_of(0, (0,), allow, refuse),
        "sched_setaffinity": _one_of(0, (0,), allow, refuse),
        "socketpair": _stream_pair(allow, refuse),
    }


def _stream_pair(allow: _Op, refuse: _Op) -> list[_Op]:
    """Local streams only: a datagram socket of a pair can send to any socket in the file system."""
    local = [_arg(0), _op(_EQUAL, 1, 1, 0), refuse]
    return [*local, _arg(1), _op(_AND, 0xF), _op(_EQUAL, 1, 0, 1), allow, refuse]


def assemble(machine: str, boxed: bool) -> bytes:
    """The program for ``machine``; ``boxed`` for a process in namespaces of its own.

    A call of another architecture's table, or of x32, kills the process.
    """
    program = [_op(_LOAD, _ARCH), _op(_EQUAL, ARCHES[machine], 1, 0), _op(_RETURN, _KILL), _op(_LOAD, _NR)]
    if machine == "x86_64":
        program += [_op(_AT_LEAST, 0x40000000, 0, 1), _op(_RETURN, _KILL)]
    plain = {**numbers(ALLOWED, machine), **(numbers(BOXED, machine) if boxed else {})}
    refused = {**numbers(REFUSED, machine), **({} if boxed else numbers(BOXED, machine))}
    for number in sorted(plain.values()):
        program += [_op(_EQUAL, number, 0, 1), _op(_RETURN, _ALLOW)]
    for name, number in numbers(EXAMINED, machine).items():
        block = _examined(boxed)[name]
        program += [_op(_EQUAL, number, 0, len(block)), *block]
    for number in sorted(refused.values()):
        program += [_op(_EQUAL, number, 0, 1), _fail(errno.EPERM)]
    program.append(_fail(errno.ENOSYS))
    return b"".join(struct.pack("=HBBI", *op) for op in program)


def fitted(program: bytes, pid: int) -> bytes:
    """The program with the process's own number filled in."""
    return program.replace(struct.pack("=I", OWN_PID), struct.pack("=I", pid))
