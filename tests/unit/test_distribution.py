"""Flat packages share the import namespace with everything else that is installed: nobody may own our names."""

from __future__ import annotations

from importlib.metadata import packages_distributions

import pytest


@pytest.mark.parametrize("name", ["tartan", "flanneld", "hostgw", "bgp", "lab", "cni"])
def test_no_other_distribution_owns_our_import_name(name: str) -> None:
    owners = set(packages_distributions().get(name, []))
    assert owners <= {"tartan"}
