"""ADD of a URL: one file over HTTP, as the server gives it; must not know where it goes."""

from __future__ import annotations

import os
import posixpath
import shutil
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from runtime.errors import InvalidParameter

TIMEOUT_S = 60.0
"""Without a byte."""
MODE = 0o600
"""As in Docker."""


def fetch(url: str, directory: Path) -> str:
    """Download into the directory; returns the file's name, the URL's last part. Raises InvalidParameter.

    Its time is Last-Modified's. `url` starts with http:// or https://: nothing else is opened, whatever a server redirects to.
    """
    name = posixpath.basename(unquote(urlsplit(url).path))
    if name in ("", ".", ".."):
        raise InvalidParameter(f"cannot determine filename for source {url}")
    file = directory / name
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.HTTPHandler, urllib.request.HTTPSHandler, urllib.request.HTTPRedirectHandler):
        opener.add_handler(handler())
    opener.add_handler(urllib.request.ProxyHandler())
    opener.add_handler(urllib.request.HTTPErrorProcessor())
    opener.add_handler(urllib.request.HTTPDefaultErrorHandler())
    try:
        with opener.open(url, timeout=TIMEOUT_S) as answer, file.open("xb") as target:
            shutil.copyfileobj(answer, target, 1 << 20)
            modified = answer.headers.get("Last-Modified")
    except (OSError, urllib.error.URLError) as error:
        raise InvalidParameter(f"failed to GET {url}: {error}") from error
    file.chmod(MODE)
    at = 0.0
    if modified:
        try:
            at = parsedate_to_datetime(modified).timestamp()
        except ValueError:
            at = 0.0
    os.utime(file, (at, at))
    return name
