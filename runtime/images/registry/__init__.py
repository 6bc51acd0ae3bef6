"""Registries: where images come from and go to (OCI distribution-spec 1.1, with Docker's customs); must not know what images are.

`registries.py` is the door; `repository.py` asks for manifests and blobs, `uploads.py` gives them, `login.py` and `search.py` ask
for the rest; `auth.py` convinces a registry of who we are, `settings.py` says where it is, `transport.py` speaks HTTP with it, and
`refusals.py` understands its no.
"""

from __future__ import annotations

from runtime.images.registry.auth import Credentials, credentials_of, parse_auth, parse_credentials
from runtime.images.registry.login import login
from runtime.images.registry.registries import Registries
from runtime.images.registry.search import SearchResult, search
from runtime.images.registry.settings import RegistrySettings

__all__ = [
    "Credentials",
    "Registries",
    "RegistrySettings",
    "SearchResult",
    "credentials_of",
    "login",
    "parse_auth",
    "parse_credentials",
    "search",
]
