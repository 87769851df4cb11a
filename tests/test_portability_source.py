"""Calls known to fail on Windows and macOS are absent from the package, or allowed for a reason."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "disk"
# allowed exceptions, as (file, trap): reason
ALLOWED = {
    ("storage/new_file.py", "import fcntl"): "of macOS, where sys.platform says so",
    ("datasets/download.py", "os.symlink"): "Windows asks for a privilege; the error says what to do",
    ("training/rendering.py", "'/dev/shm'"): "only where it is a folder",
    ("devices.py", "'/proc/cpuinfo'"): "without it the name comes from the platform module",
    ("devices.py", "'/proc/meminfo'"): "without it half of the memory counts as free",
    ("devices.py", "'/proc/self/cgroup'"): "without it there is no limit",
    ("devices.py", "'/sys/fs/cgroup'"): "without it there is no limit",
    ("devices.py", "'/proc/self/statm'"): "without it there is no limit",
    ("devices.py", "import resource"): "only where the module is found",
}
POSIX_ONLY = {
    "os": "fork forkpty getuid geteuid getgid getegid getpgid setsid killpg kill mkfifo mknod chown lchown chroot nice "
    "uname statvfs pread pwrite wait waitpid ttyname openpty O_DIRECTORY O_NOFOLLOW O_CLOEXEC O_SYNC",
    "signal": "SIGKILL SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGALRM SIGCHLD SIGPIPE SIGSTOP SIGCONT alarm setitimer "
    "siginterrupt sigwait pthread_kill",
    "time": "clock_gettime tzset",
    "socket": "AF_UNIX",
}
# exist on some systems only, so the same file must check with hasattr
ASKED_FOR = {"sched_getaffinity", "getloadavg", "sysconf", "pthread_sigmask", "posix_fadvise", "fdatasync"}
MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "crypt", "readline", "syslog"}
OPENERS = {"Image", "tarfile", "zipfile", "gzip", "webbrowser", "Database", "os", "h5py", "_OPENER", "av"}


def traps(source: str) -> Iterator[str]:
    """Find the known traps of a module."""
    asked = set(re.findall(r"hasattr\(\w+, \"(\w+)\"\)", source))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (f"import {name}" for name in names if name in MODULES)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in POSIX_ONLY.get(node.value.id, "").split():
                yield f"{node.value.id}.{node.attr}"
            elif node.attr in ASKED_FOR - asked:
                yield f"{node.value.id}.{node.attr} without hasattr"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.match(r"/(tmp|dev|proc|sys|var|etc|usr)(/\S*)?$", node.value) or node.value == "HOME":
                yield repr(node.value)
            if re.search(r"%-[dmHIMSjy]", node.value):
                yield f"strftime {node.value}"
        if isinstance(node, ast.Call):
            yield from _traps_of_call(node)


def _traps_of_call(call: ast.Call) -> Iterator[str]:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    words = [part.value for part in [*call.args, *given.values()] if isinstance(part, ast.Constant)]
    owner = ""
    if isinstance(call.func, ast.Attribute):
        name, inner = call.func.attr, call.func.value
        owner = inner.id if isinstance(inner, ast.Name) else inner.attr if isinstance(inner, ast.Attribute) else "?"
    else:
        name = call.func.id if isinstance(call.func, ast.Name) else ""
    if name in ("open", "fdopen") and owner not in OPENERS:
        mode = given.get("mode") or (call.args[1:] if not owner else call.args[:1] or [None])[0:1]
        mode = mode[0] if isinstance(mode, list) and mode else mode
        binary = isinstance(mode, ast.IfExp) or (isinstance(mode, ast.Constant) and "b" in str(mode.value))
        if not binary and "encoding" not in given:
            yield "open without encoding"
    if owner and name == "read_text" and "encoding" not in given and not call.args:
        yield "read_text without encoding"
    if owner and name == "write_text" and "encoding" not in given and len(call.args) < 2:
        yield "write_text without encoding"
    if owner == "subprocess" and ("text" in given or "universal_newlines" in given) and "encoding" not in given:
        yield "subprocess without encoding"
    if owner == "subprocess" and {"preexec_fn", "shell", "start_new_session"} & set(given):
        yield "subprocess by a shell or with preexec_fn"
    if name == "rename" and owner not in ("", "?"):
        yield "rename instead of replace"
    if name in ("symlink", "symlink_to", "link", "hardlink_to"):
        yield f"os.{name}"
    if name in ("get_context", "set_start_method") and ({"fork", "forkserver"} & set(map(str, words)) or not words):
        yield "a start method that is not everywhere"
    if name == "ProcessPoolExecutor" and len(call.args) < 2 and "mp_context" not in given:
        yield "processes by the start method of the system"
    of_text = isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Call)
    if name in ("split", "rsplit", "partition", "replace") and words[:1] == ["/"] and of_text:
        made = call.func.value.func  # type: ignore[attr-defined]
        if isinstance(made, ast.Name) and made.id in ("str", "fspath"):
            yield "a path taken apart at '/'"


def test_the_source_has_no_known_traps():
    found = {
        (path.relative_to(SOURCE).as_posix(), trap)
        for path in SOURCE.rglob("*.py")
        for trap in traps(path.read_text(encoding="utf-8"))
    }
    assert found - set(ALLOWED) == set()
    assert set(ALLOWED) - found == set()  # no allowance without a trap


@pytest.mark.parametrize(
    "code",
    [
        "os.fork()", "os.kill(1, 9)", "x = signal.SIGKILL", "import resource", "from fcntl import flock",
        "os.sched_getaffinity(0)", "os.getloadavg()", "open(path)", "open(path, 'w')", "path.open()", "path.open('a')",
        "open(path, mode='r')", "path.read_text()", "path.write_text('x')", "os.rename(a, b)", "path.rename(b)",
        "x = '/tmp/file'", "x = '/dev/null'", "os.environ['HOME']", "now.strftime('%-d')", "ProcessPoolExecutor(4)",
        "multiprocessing.get_context('fork')", "multiprocessing.set_start_method('fork')", "str(path).split('/')",
        "multiprocessing.get_context()", "subprocess.run(x, text=True)", "subprocess.run(x, shell=True)",
        "os.symlink(a, b)", "x.symlink_to(b)", "os.uname()",
    ],
)  # fmt: skip
def test_each_trap_is_seen(code):
    assert list(traps(code))


@pytest.mark.parametrize(
    "code",
    [
        'x = os.getloadavg() if hasattr(os, "getloadavg") else 0', "open(path, 'rb')", "open(path, encoding='utf-8')",
        "path.open('wb')", "path.read_text(encoding='utf-8')", "write_text(path, 'x')", "text.replace('/', '|')",
        "multiprocessing.get_context('spawn')", "ProcessPoolExecutor(4, context)", "os.replace(a, b)", "Image.open(x)",
        "x = '/images'", "signal.SIGTERM",
    ],
)  # fmt: skip
def test_what_works_everywhere_is_no_trap(code):
    assert not list(traps(code))
