"""Somewhere in a lab: namespaces that one enters to run things; must not know how they are wired."""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, ParamSpec, TypeVar

from flanneld.linux.netns import Clone, Mount, in_thread, mount, setns, unshare
from lab import LabError

P = ParamSpec("P")
T = TypeVar("T")

KINDS = ("net", "uts", "mnt")
"""The namespaces of a host, as the kernel names them in /proc/PID/ns. The mount namespace is entered last: it hides the files."""


@dataclass(frozen=True, slots=True)
class Place:
    """A name, and the way there."""

    name: str
    namespaces: tuple[Path, ...]
    """Files to enter one after the other, each looked up as seen after entering those before."""
    environment: Mapping[str, str]
    """The whole environment of what runs here."""

    def enter(self) -> None:
        """Move this thread here for good; a process must have only one then. Raises LabError when that is only half made."""
        unshare(Clone.FS)
        for path in self.namespaces:
            try:
                setns(path)
            except OSError as error:
                raise LabError(f"{self.name} is not there to enter: {path}: {error.strerror}") from error

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call here, in a thread of its own; returns and raises what the function does."""

        def entered() -> T:
            self.enter()
            return function(*args, **kwargs)

        return in_thread(entered)

    def run(
        self, argv: Sequence[str], *, check: bool = True, timeout_s: float = 60, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; raises LabError if `check` and it fails, TimeoutExpired."""
        run = subprocess.run
        ended = self.call(run, argv, timeout=timeout_s, input=stdin, capture_output=True, text=True, env=self.environment)
        if check and ended.returncode:
            raise LabError(f"{self.name}: {shlex.join(argv)} ended with exit code {ended.returncode}: {ended.stderr.strip()}")
        return ended

    def popen(
        self, argv: Sequence[str], *, stdin: int | None = None, stdout: int | None = None, stderr: int | None = None
    ) -> subprocess.Popen[str]:
        """Start a command and return at once; the caller waits for it."""
        return self.call(subprocess.Popen, argv, stdin=stdin, stdout=stdout, stderr=stderr, text=True, env=self.environment)

    def start(self, argv: Sequence[str], log: Path) -> subprocess.Popen[str]:
        """Start a command that outlives this process and its terminal; what it says is appended to `log`."""
        with log.open("a") as output:
            return self.call(
                subprocess.Popen,
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                text=True,
                start_new_session=True,
                env=self.environment,
            )

    def become(self, argv: Sequence[str], extra: Mapping[str, str] | None = None) -> NoReturn:
        """Go on as another program, here; in the present directory if that exists here too. Raises OSError naming the program."""
        try:
            directory = Path.cwd()
        except FileNotFoundError:  # somebody removed it
            directory = Path("/")
        self.enter()
        os.chdir(directory if directory.is_dir() else "/")
        try:
            os.execvpe(argv[0], list(argv), {**self.environment, **(extra or {})})  # noqa: S606  # no shell is what we want
        except OSError as error:
            error.filename = argv[0]
            raise


def keep_namespaces(directory: Path, furnish: Callable[[], None]) -> tuple[Path, ...]:
    """Make a net, a UTS and a mount namespace, call `furnish` inside, and keep them by files in `directory`; returns the files.

    `directory` must be on a private mount (mount_namespaces(7)). `furnish` may be called again, in other namespaces.
    """
    processors = sorted(os.sched_getaffinity(0))
    for processor in processors:
        try:
            return _keep_namespaces(directory, furnish, processor)
        except OSError as error:
            # A mount namespace can only be kept in an older one, so that none keeps itself, and Linux tells age by a number that
            # it draws, since 6.18, from a batch per processor: then only some processors make younger ones than a container's.
            if error.errno != errno.EINVAL or processor == processors[-1]:
                raise
    raise AssertionError("a thread has at least one processor to run on")


def _keep_namespaces(directory: Path, furnish: Callable[[], None], processor: int) -> tuple[Path, ...]:
    inside: Future[int] = Future()
    kept = threading.Event()

    def live() -> None:
        try:
            processors = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {processor})
            unshare(Clone.NEWNET | Clone.NEWUTS | Clone.NEWNS)
            os.sched_setaffinity(0, processors)
            furnish()
        except BaseException as error:
            inside.set_exception(error)
        else:
            inside.set_result(threading.get_native_id())
            kept.wait()

    files = tuple(directory / kind for kind in KINDS)
    thread = threading.Thread(target=live)
    thread.start()
    try:
        for path in reversed(files):  # the mount namespace first: if it cannot be kept, nothing is
            path.touch()
            mount(f"/proc/self/task/{inside.result()}/ns/{path.name}", path, flags=Mount.BIND)
    finally:
        kept.set()
        thread.join()
    return files
