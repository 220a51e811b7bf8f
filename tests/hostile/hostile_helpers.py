"""Commands run as a stranger's victim would run them: in a process with little memory, little time and a witness."""

import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

import torch

from diptych.app.main import main

MIB = 1 << 20


class Bomb:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


class Said(NamedTuple):
    """How a command ended: its exit code (negative: killed by that signal) and what it printed."""

    code: int
    text: str

    @property
    def sentence(self):
        """The one sentence of a command that failed, which is its last line."""
        assert self.code == 1, self
        last = self.text.strip().splitlines()[-1]
        assert last.startswith("diptych: "), self
        assert "DIPTYCH_DEBUG" not in last, self  # an error that nobody foresaw
        assert "Traceback" not in self.text, self
        assert last.isprintable(), self
        assert len(last) < 2100, self
        return last.removeprefix("diptych: ")

    @property
    def well(self):
        """The output of a command that did its work; nothing in it steers a terminal."""
        assert self.code == 0, self
        assert all(c.isprintable() or c in "\n\t\u00a0" for c in self.text), self
        return self.text


def ask(*args, memory=1200, seconds=30):
    """Runs `diptych ARGS` with `memory` MiB more than this process has; what takes longer is ended by SIGALRM."""
    return limited(lambda: main([str(arg) for arg in args]), memory, seconds)


def limited(work, memory=1200, seconds=30):
    """Runs a function that returns an exit code (or None) within limits of memory and time."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.dup2(writing, 1)
            os.dup2(writing, 2)
            sys.stdout = os.fdopen(1, "w", encoding="utf-8")
            sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace")
            torch.set_num_threads(1)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + memory * MIB,) * 2)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(seconds)
            code = work() or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8", errors="replace") as told:
        text = told.read()
    return Said(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text)


def everything(folder):
    """All that is there, with sizes and times: what must not change."""
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*") if not path.is_dir()
    }


def sparse(path, size):
    """A file that claims `size` bytes and takes none of the disk."""
    with path.open("wb") as file:
        file.truncate(size)
    return path
