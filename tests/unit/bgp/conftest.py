"""What tests share that call exabgp's own code."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def exabgp() -> Iterator[None]:
    """exabgp wants a log, and looks for its settings in the environment."""
    before = dict(os.environ)
    os.environ["EXABGP_ENVFILE"] = "/dev/null"
    from bgp.speaker.launcher import stock

    stock.log.init(stock.getenv())
    yield
    os.environ.clear()
    os.environ.update(before)
