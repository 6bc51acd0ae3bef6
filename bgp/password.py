"""A file that holds a session's password; must not know whose."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from flanneld.config import ConfigError
from flanneld.log import Log, Once

log = Log(__name__)

LONGEST_BYTES = 80
"""TCP_MD5SIG_MAXKEYLEN of linux/tcp.h."""
LONGEST_READ_BYTES = LONGEST_BYTES + len("\r\n") + 1


def read_password(path: str, said: Once | None = None) -> str:
    """The file's one line. Raises ConfigError for a file that cannot be read, and for what cannot be a TCP MD5 password.

    Printable ASCII without spaces: what every router can be configured with. A file that everybody can read is warned of, unless
    `said` has it already.
    """
    password = _beginning(path, said or Once(log)).removesuffix("\n").removesuffix("\r")
    if not password:
        raise _error(path, "is empty, expected one line with the password")
    if not all("!" <= character <= "~" for character in password):
        raise _error(path, "expected one line of printable ASCII without spaces, got other characters in it")
    if len(password) > LONGEST_BYTES:
        raise _error(path, f"expected a password of up to {LONGEST_BYTES} bytes, got a longer one")
    return password


def read_passwords(paths: Iterable[str], said: Once) -> dict[str, str]:
    """Those that can be read, by their files; of the others it is said why."""
    known = {}
    for path in paths:
        try:
            known[path] = read_password(path, said)
        except ConfigError as error:
            said.warning(path, "bgp password not known", why=error)
        else:
            said.over(path)
    return known


def _beginning(path: str, said: Once) -> str:
    """As much of the file as tells that it is too long."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe without a writer would hold us up
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise _error(path, "expected a file, got something else")
            content = os.read(descriptor, LONGEST_READ_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _error(path, f"cannot be read: {error.strerror}") from error
    if mode & stat.S_IROTH:
        said.warning(f"mode of {path}", "everybody on this host can read a password", path=path, mode=oct(stat.S_IMODE(mode)))
    return content.decode("latin-1")  # every byte is a character, for the caller to judge


def _error(path: str, why: str) -> ConfigError:
    return ConfigError("PasswordFile", f"{path}: {why}")
