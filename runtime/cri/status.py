"""CRI's calls about the runtime itself: whether it is ready, and what it is; must not know pods."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import TYPE_CHECKING

from cri_api.v1 import api_pb2 as cri

from flanneld.log import Log
from runtime.containers.mounts import RECURSIVE_READ_ONLY
from runtime.cri.sandboxes import HANDLERS, pod_network
from runtime.errors import Unavailable
from runtime.linux.release import kernel_version

if TYPE_CHECKING:
    from runtime.engine import Engine

log = Log(__name__)
NAME = "tartan"
API_VERSION = "v1"
KUBELET_API = "0.1.0"
"""What `version` of a Version call has said since the beginning."""


class RuntimeStatus:
    """One engine's."""

    def __init__(self, engine: Engine) -> None:
        self._networks = engine.networks
        self._settings = engine.settings
        self._pod_cidr = ""

    async def version(self, request: cri.VersionRequest) -> cri.VersionResponse:
        """Version."""
        ours = version(NAME)
        return cri.VersionResponse(version=KUBELET_API, runtime_name=NAME, runtime_version=ours, runtime_api_version=API_VERSION)

    async def status(self, request: cri.StatusRequest) -> cri.StatusResponse:
        """Status: pods want a CNI network, that is all."""
        ready = cri.RuntimeCondition(type="RuntimeReady", status=True)
        network = cri.RuntimeCondition(type="NetworkReady", status=True)
        try:
            pod_network(self._networks)
        except Unavailable as error:
            network = cri.RuntimeCondition(
                type="NetworkReady",
                status=False,
                reason="NetworkPluginNotReady",
                message=f"{error} in {self._settings.cni_conf_dir}",
            )
        features = cri.RuntimeHandlerFeatures(
            recursive_read_only_mounts=kernel_version() >= RECURSIVE_READ_ONLY, user_namespaces=False
        )
        return cri.StatusResponse(
            status=cri.RuntimeStatus(conditions=[ready, network]),
            info={"config": json.dumps(self._config())} if request.verbose else {},
            runtime_handlers=[cri.RuntimeHandler(name=name, features=features) for name in HANDLERS],
            features=cri.RuntimeFeatures(supplemental_groups_policy=True),
        )

    def _config(self) -> dict[str, str]:
        settings = self._settings
        return {
            "root": str(settings.layout.root),
            "run": str(settings.layout.run),
            "cniConfDir": str(settings.cni_conf_dir),
            "cniBinDir": str(settings.cni_bin_dir),
            "podCIDR": self._pod_cidr,
            "runtime": settings.runc_program,
        }

    async def update_config(self, request: cri.UpdateRuntimeConfigRequest) -> cri.UpdateRuntimeConfigResponse:
        """UpdateRuntimeConfig: pods' addresses are their CNI network's affair, which knows its subnet from flanneld."""
        told = request.runtime_config.network_config.pod_cidr
        if told and told != self._pod_cidr:
            log.info("pod subnet told by the kubelet", subnet=told)
            self._pod_cidr = told
        return cri.UpdateRuntimeConfigResponse()

    async def config(self, request: cri.RuntimeConfigRequest) -> cri.RuntimeConfigResponse:
        """RuntimeConfig."""
        return cri.RuntimeConfigResponse(linux=cri.LinuxRuntimeConfiguration(cgroup_driver=cri.CGROUPFS))
