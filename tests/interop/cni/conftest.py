"""Every test here runs once for each set of CNI plugins; where a set is known to differ, the test says so and why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cni_ours import OURS
from cni_world import REFERENCE, VERSIONS, CniHost, PluginSet, cni_host

HERE = Path(__file__).parent
PLUGIN_SETS = (REFERENCE, OURS)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "differs(maker, reason, strict=True): that maker's plugins fail this test, and are known to; told if they do not"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not item.path.is_relative_to(HERE):
            continue
        item.add_marker(pytest.mark.root)
        for mark in item.iter_markers("differs"):
            name, reason = mark.args
            plugins = item.callspec.params["plugins"] if isinstance(item, pytest.Function) else None
            if isinstance(plugins, PluginSet) and plugins.maker == name:
                item.add_marker(pytest.mark.xfail(reason=f"{name}: {reason}", strict=mark.kwargs.get("strict", True)))


@pytest.fixture(params=PLUGIN_SETS, ids=[plugins.name for plugins in PLUGIN_SETS])
def plugins(request: pytest.FixtureRequest) -> PluginSet:
    chosen: PluginSet = request.param
    if chosen.absent():
        pytest.skip(chosen.absent())
    return chosen


@pytest.fixture
def host(plugins: PluginSet) -> Iterator[CniHost]:
    with cni_host(plugins) as made:
        yield made


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest, plugins: PluginSet) -> str:
    """Each version of the spec that the plugins speak."""
    chosen: str = request.param
    if chosen not in plugins.versions:
        pytest.skip(f"{plugins.name} plugins do not speak {chosen}")
    return chosen
