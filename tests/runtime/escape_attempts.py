"""The programs of `test_runtime_sandbox_escapes.py`: each prints ``held`` if the wall held."""

from __future__ import annotations

PRELUDE = '''
import ctypes, errno, os, signal, socket, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)

def held(attempt, *more):
    """Prints `held` if every attempt is refused."""
    for one in (attempt, *more):
        try:
            got = one()
        except (OSError, ImportError, ValueError, MemoryError, AttributeError, RuntimeError):
            continue
        print("ESCAPED", repr(got)[:200])
        return
    print("held")

def call(*names_and_arguments):
    """A system call through the C library; raises for an error."""
    def attempt(name=names_and_arguments[0], arguments=names_and_arguments[1:]):
        if isinstance(name, int):
            result = libc.syscall(ctypes.c_long(name), *arguments)
        else:
            result = getattr(libc, name)(*arguments)
        if result == -1:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return name, result
    return attempt

x86 = os.uname().machine == "x86_64"
def number(a, b):
    return a if x86 else b
'''

ATTEMPTS = {
    "a program cannot read the files of the machine": """
places = ("/etc/passwd", "/etc/hostname", "/etc/shadow", "/proc/cpuinfo", "/sys/kernel/notes")
held(*(lambda p=p: open(p).read() for p in places))
""",
    "a program cannot read a file that everybody may read": """
held(lambda: open(SECRET).read(), lambda: os.listdir(os.path.dirname(SECRET)))
""",
    "a program cannot list home folders": """
held(lambda: os.listdir("/home"), lambda: os.listdir("/root/.ssh"))
""",
    "a program finds no installed packages and none of this project": """
def found():
    import torch
def ours():
    import truegain.runtime
held(found, ours)
""",
    "a link in its folder does not lead a program out": """
def through():
    os.symlink("/etc/passwd", "link")
    return open("link").read()
def hard():
    os.link(SECRET, "hard")
    return open("hard").read()
def up():
    return open("../../../../../../../../etc/passwd").read()
held(through, hard, up, lambda: open("/proc/self/root/etc/passwd").read())
""",
    "a program cannot write beside its folder": """
places = ["/", "/usr", "/dev", "/inside", "/etc", "/proc", "/var/tmp"]
places += [os.path.dirname(os.__file__), os.path.dirname(SECRET)]
held(*(lambda p=p: open(p + "/left", "w").write("x") for p in places))
""",
    "a program cannot change or replace the standard library": """
held(lambda: open(os.__file__, "a"), lambda: os.unlink(os.__file__), lambda: os.chmod(os.__file__, 0o777),
     lambda: os.rename(os.__file__, "os.py"), lambda: os.truncate(os.__file__, 0), lambda: os.utime(os.__file__))
""",
    "a program cannot change the rights of a file outside": """
held(lambda: os.chmod(SECRET, 0o777), lambda: os.chown(SECRET, 1, 1), lambda: os.utime(SECRET, (0, 0)),
     lambda: os.truncate(SECRET, 0), lambda: os.setxattr(SECRET, "user.x", b"1"), lambda: os.unlink(SECRET))
""",
    "a program cannot make devices or mount anything": """
held(lambda: os.mknod("disk", 0o60600, os.makedev(8, 0)), call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
     call("umount2", b"/tmp", 2), call("chroot", b"."), call(155 if x86 else 41, b".", b"."))
""",
    "a program cannot reach a server on this machine": """
def tcp():
    return socket.create_connection(("127.0.0.1", PORT), timeout=2)
def udp():
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", PORT))
held(tcp, udp, lambda: socket.getaddrinfo("example.org", 80), lambda: socket.create_server(("127.0.0.1", 0)))
""",
    "a program cannot reach a socket in the file system or in the abstract name space": """
def connect(name, kind=socket.SOCK_STREAM):
    s = socket.socket(socket.AF_UNIX, kind)
    s.connect(name)
def datagram():
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return a.sendto(b"x", UNIX + "-datagrams")
def stream():
    a, b = socket.socketpair()
    return a.connect(UNIX)
held(lambda: connect(UNIX), lambda: connect(chr(0) + ABSTRACT), datagram, stream)
""",
    "a program cannot open sockets of any other family": """
held(*(lambda f=f, k=k: socket.socket(f, k) for f in (2, 10, 16, 17, 31, 38, 40, 44) for k in (1, 2, 3)))
""",
    "a program cannot signal processes outside": """
held(lambda: os.kill(OUTSIDE, 0), lambda: os.kill(OUTSIDE, 9), lambda: os.killpg(OUTSIDE, 9),
     lambda: signal.pidfd_send_signal(os.pidfd_open(OUTSIDE), 9), 
     call(number(129, 138), OUTSIDE, 9, ctypes.create_string_buffer(128)),
     call(number(200, 130), OUTSIDE, 9), call(number(234, 131), OUTSIDE, OUTSIDE, 9))
""",
    "a program cannot have the kernel signal processes outside for it": """
import fcntl
def owned(command):
    r, w = os.pipe()
    return fcntl.fcntl(r, command, OUTSIDE)
held(lambda: owned(8), lambda: owned(10), lambda: fcntl.ioctl(0, 0x8901, b"    "), lambda: fcntl.ioctl(0, 0x5412, b"x"))
""",
    "a program cannot trace, read or limit other processes": """
import resource
held(*(attempt for pid in (1, os.getppid(), OUTSIDE) for attempt in (
    call("ptrace", 16, pid, 0, 0), call(number(310, 270), pid, 0, 0, 0, 0, 0),
    call(number(312, 272), pid, pid, 0, 0, 0), lambda pid=pid: os.sched_setaffinity(pid, {0}),
    lambda pid=pid: resource.prlimit(pid, resource.RLIMIT_CPU, (1, 1)),
    lambda pid=pid: os.setpriority(os.PRIO_PROCESS, pid, 19), lambda pid=pid: open(f"/proc/{pid}/mem", "rb"))))
""",
    "a program cannot look into a process of its own user, or take its files": """
def look(what):
    return open(f"/proc/{OUTSIDE}/{what}", "rb").read(1)
held(*(lambda what=what: look(what) for what in ("environ", "maps", "mem", "cmdline", "root/etc/passwd", "cwd/x")),
     *(lambda fd=fd: os.open(f"/proc/{OUTSIDE}/fd/{fd}", os.O_RDONLY) for fd in range(64)),
     lambda: open("/proc/self/oom_score_adj", "w").write("-10"), lambda: os.listdir(f"/proc/{OUTSIDE}/fd"))
""",
    "a program cannot signal or stop what serves it": """
for s in (9, signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGTSTP):
    for target in {1, os.getppid()}:
        try:
            os.kill(target, s)
        except OSError:
            pass
print("held")
""",
    "a program cannot become another user or gain privileges": """
held(lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setresuid(0, 0, 0), lambda: os.setgroups([0]),
     call("capset", ctypes.create_string_buffer(8), ctypes.create_string_buffer(24)), call("prctl", 8, 1, 0, 0, 0),
     call("prctl", 23, 0, 0, 0, 0), call("prctl", 47, 2, 21, 0, 0), call("personality", 0x0040000))
""",
    "a program has no privileges to begin with": """
data = ctypes.create_string_buffer(24)
head = ctypes.create_string_buffer(b"\\x22\\x05\\x08\\x20\\0\\0\\0\\0", 8)
assert libc.capget(head, data) == 0
effective, permitted, inheritable = (int.from_bytes(data.raw[4 * i : 4 * i + 4], "little") for i in range(3))
reading = 1 << 2  # passes closed folders on the way to the interpreter, where landlock alone says what may be read
none = not (effective | permitted | inheritable) & ~reading
print("held" if none and os.getuid() and os.getgid() else (os.getuid(), os.getgid(), effective))
""",
    "a program cannot make namespaces": """
flags = (0x10000000, 0x20000, 0x20000000, 0x40000000, 0x8000000, 0x4000000, 0x2000000)
held(*(call("unshare", flag) for flag in (*flags, 0x80)),
     *(call(number(56, 220), flag | 17, 0, 0, 0, 0) for flag in flags),
     call(435, ctypes.create_string_buffer(88), 88), call("setns", 0, 0))
""",
    "a program cannot use the parts of the kernel that are attacked most": """
held(call(number(321, 280), 0, None, 0), call(number(298, 241), None, 0, -1, -1, 0),  # bpf, perf_event_open
     call(425, 8, None), call(427, 0, 0, 0, 0), call(number(323, 282), 0),  # io_uring, userfaultfd
     call(number(250, 219), 0, 0, 0, 0, 0), call(number(248, 217), b"user", b"x", b"y", 1, -3),  # keyctl, add_key
     call(number(175, 105), None, 0, b""), call(number(304, 265), -1, None, 0),  # init_module, open_by_handle_at
     call(number(303, 264), -100, b"/", None, None, 0), call(number(317, 277), 1, 0, None),  # name_to_handle_at
     call(443, 0), call(600), call(999))
""",
    "a program cannot keep memory that no limit counts": """
held(lambda: os.memfd_create("x"), call("shmget", 0, 1 << 20, 0o1600), call("msgget", 0, 0o1600),
     call("semget", 0, 1, 0o1600), call(number(240, 180), b"x", 0o102, 0o600, None), call("mlockall", 3))
""",
    "a program cannot set the clock": """
held(lambda: time.clock_settime(time.CLOCK_REALTIME, 0), call("settimeofday", ctypes.create_string_buffer(16), None),
     call("adjtimex", ctypes.create_string_buffer(208)), call("clock_adjtime", 0, ctypes.create_string_buffer(208)))
""",
    "a program does not see the environment of the one who runs it": """
seen = {**os.environ}
print("held" if set(seen) <= {"HOME", "TMPDIR", "LANG"} and os.getenv("TRUEGAIN_SECRET") is None else seen)
""",
    "a program inherits standard input, output and error, and nothing else": """
open_ = []
for fd in range(4096):
    try:
        os.fstat(fd)
        open_.append(fd)
    except OSError:
        pass
print("held" if open_ == [0, 1, 2] else open_)
""",
    "a program cannot raise its limits": """
import resource
held(*(lambda r=r: resource.setrlimit(r, (1 << 40, 1 << 40)) for r in (
    resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_CPU, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE)))
""",
    "a program cannot write a file beyond its limit": """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def grow():
    with open("big", "wb", buffering=0) as file:
        return sum(file.write(b"x" * (1 << 20)) for _ in range(3))
held(grow)
""",
    "a program cannot fill more than its scratch space": """
def fill():
    for i in range(16):
        open(f"part{i}", "wb").write(b"x" * (1 << 20))
held(fill)
""",
    "a program cannot make files without end": """
def fill():
    for i in range(5000):
        open(f"f{i}", "w").close()
held(fill)
""",
    "a program cannot open files without end": "held(lambda: [os.dup(0) for _ in range(1000)])",
    "a program cannot allocate beyond its memory": """
import mmap
held(lambda: bytearray(1 << 30), lambda: mmap.mmap(-1, 1 << 30), lambda: [bytearray(1 << 20) for _ in range(4000)])
""",
    "a program cannot start processes without end": """
def bomb():
    for _ in range(200):
        if os.fork() == 0:
            time.sleep(30)
held(bomb)
""",
    "a program cannot start threads without end": """
def bomb():
    threading.stack_size(65536)
    for _ in range(3000):
        threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
held(bomb)
""",
    "a program cannot run the programs of the machine": """
programs = ("/bin/sh", "/usr/bin/env", "/usr/bin/sudo", "/bin/mount", "bwrap")
held(*(lambda p=p: subprocess.run([p, "--version"]) for p in programs))
""",
    "a program cannot make a tracer of its own": """
held(lambda: os.pidfd_open(os.getpid()), call("ptrace", 0, 0, 0, 0), call(number(317, 277), 1, 0, None))
""",
}

KILLED = {
    "the calls of the 32-bit table end the process": """
import mmap
code = mmap.mmap(-1, 4096, prot=7)
code.write(bytes.fromhex("b8 14 00 00 00 cd 80 c3"))  # mov eax, 20 (getpid); int 0x80; ret
address = ctypes.addressof(ctypes.c_char.from_buffer(code))
print("ESCAPED", ctypes.CFUNCTYPE(ctypes.c_int)(address)())
""",
    "the calls of the x32 table end the process": "print('ESCAPED', libc.syscall(ctypes.c_long(0x40000000 + 39)))",
}
