"""One examination of a host: what is asked in which order, and what is left out when something before could not be had."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from flanneld import FlanneldError, masquerade
from flanneld.backend import BackendError, Uplink
from flanneld.backends.vtep import checksum_trap
from flanneld.backends.vxlan import DEFAULT_PORT
from flanneld.config import ConfigError, NetworkConfig, read_int, read_switch
from flanneld.daemon import identity_of, instance_of, require_net_admin
from flanneld.flags import Options
from flanneld.kernel import Route
from flanneld.lease import Lease
from flanneld.linux.hardware import driver_of
from flanneld.linux.kernel import LinuxKernel
from flanneld.linux.links import is_running, link, links
from flanneld.linux.netlink import Netlink
from flanneld.linux.uplink import UplinkError, find_uplink
from flanneld.membership import former_configs, policy_of
from flanneld.peers import eligible
from flanneld.remembered import Remembered, beside, recall
from flanneld.subnet_env import SubnetEnv, SubnetEnvError, read
from tartan.checks import daemon, device, host, lease, methods, mtu, peers, reach, rules, store
from tartan.checks.finding import Finding, error, ok, unknown
from tartan.running import Running, is_claimed

WRONG = (UplinkError, BackendError, ConfigError, SubnetEnvError)
"""What keeps flanneld from working as it keeps us from looking."""
SHOWN_BY = {"uplink": "ip route; ip addr", "backend": "flanneld --dry-run", "files": "ls -l /run/flannel"}
REMEDY = {
    "uplink": "give this host a default route, or flanneld the right --iface",
    "backend": "correct the network config, or what this host lacks",
    "files": "remove the file, and restart flanneld",
}


@dataclass(slots=True)
class Examination:
    """What is found goes into `findings`, in the order in which it was looked at."""

    options: Options
    running: Sequence[Running]
    nl: Netlink
    findings: list[Finding] = field(default_factory=list)
    claimed: bool = field(default_factory=is_claimed)
    env: SubnetEnv | None = None
    memory: Remembered = field(default_factory=Remembered)

    async def run(self) -> list[Finding]:
        """All checks; never raises for what it looks at."""
        with self._looking("rights"):
            require_net_admin()
        await self._daemon()
        with self._looking("files"):
            self.env = read(Path(self.options.subnet_file))
            self.memory = recall(beside(Path(self.options.subnet_file)))
        if self.options.kube_subnet_mgr:
            self.findings.append(unknown("leases", "not looked at: they are in Kubernetes"))
            await self._without_store()
            return self.findings
        with self._looking("etcd"):
            answers = await store.ask_members(self.options)
            self.findings += store.check_members(self.options, answers)
            if good := [endpoint for endpoint, why in answers.items() if not why]:
                await self._with_store(good)
            else:
                self.findings.append(
                    unknown("leases", "not looked at: etcd does not answer", "run tartan doctor again when it does")
                )
                await self._without_store()
        return self.findings

    @property
    def flanneld_runs(self) -> bool:
        return bool(self.running) or self.claimed

    @property
    def remedy(self) -> str:
        return peers.BUSY if self.flanneld_runs else peers.DOWN

    async def _daemon(self) -> None:
        self.findings += daemon.check_running(self.running, claimed=self.claimed)
        if self.flanneld_runs:
            with self._looking("health"):
                self.findings += await asyncio.to_thread(daemon.check_health, self.options)
        if self.claimed:
            with self._looking("cni"):
                self.findings += daemon.check_cni(self.options)

    async def _with_store(self, good: Sequence[str]) -> None:
        stored = await store.read(self.options, good)
        root = store.root(self.options)
        network, told = store.check_config(f"{root}config", stored.config)
        self.findings += [*told, *store.check_garbage(f"{root}subnets/", stored.garbage), *lease.check_others(stored.leases)]
        if network is None:
            self.findings.append(unknown("host", "not looked at: there is no network config to compare it with"))
            return
        own = None
        with self._looking("uplink"):
            uplink = find_uplink(self.nl, self.options, [pool.family for pool in network.pools])
            self._uplink(uplink, network)
            own = await self._own(stored, uplink, network, good)
            with self._looking("backend"):
                await self._kernel(network, uplink, own, stored.leases)
        await self._host(network, own)

    async def _without_store(self) -> None:
        """What can be seen without it, by what flanneld remembers."""
        for network in former_configs(self.memory)[:1]:
            with self._looking("uplink"):
                self._uplink(find_uplink(self.nl, self.options, [pool.family for pool in network.pools]), network)
            await self._host(network, self.memory.lease)

    def _uplink(self, uplink: Uplink, network: NetworkConfig) -> None:
        wanted = read_int(network.backend, "MTU", 0, 0, 65535) if network.backend_type == "vxlan" else 0
        found, runs = link(self.nl, uplink.name), is_running(self.nl, uplink.name)
        self.findings += device.check_uplink(uplink, found, running=runs, wanted_mtu=wanted)
        if network.backend_type == "vxlan":
            port = read_int(network.backend, "Port", 0, 0, 65535) or DEFAULT_PORT
            trap, asked = checksum_trap(driver_of(uplink.name), port), read_switch(network.backend, "TxChecksumOffload")
            self.findings += device.check_checksums(uplink, trap, left_to_hardware=asked)

    async def _own(self, stored: store.Stored, uplink: Uplink, network: NetworkConfig, good: Sequence[str]) -> Lease | None:
        here = lease.Host(uplink.public_ips, self.memory.lease, self.env, self.options.subnet_file)
        self.findings += lease.check_own(stored.leases, here, network)
        found = lease.ours(stored.leases, here)
        if not found:
            return None
        with self._looking("lease"):
            number = stored.etcd_lease(found[0])
            seconds = await store.time_left_s(self.options, good, number) if number else None
            self.findings.append(lease.check_time_left(seconds, self.options.subnet_lease_renew_margin))
        return found[0]

    async def _kernel(self, network: NetworkConfig, uplink: Uplink, own: Lease | None, leases: Sequence[Lease]) -> None:
        others, refused = eligible(network, own, {one.subnets: one for one in leases}) if own else (list(leases), [])
        here = methods.Here(uplink, identity_of(self.options))
        planned = await methods.plan_all(self.nl, [network, *former_configs(self.memory)], here, own, others)
        present = links(self.nl)
        words = peers.Words({one.index: one.name for one in present}, self.flanneld_runs)
        self.findings += device.check_devices(planned.noted, present, self.remedy)
        if own is not None:
            self.findings += device.check_published(own, planned.attrs, self.remedy)
        have = LinuxKernel(self.nl).entries(planned.owner)
        plans = {**planned.plans, **{refusal.lease: refusal for refusal in refused}}
        self.findings += peers.check_peers(plans, planned.shared, have, words)
        routed = {index for entry in have if isinstance(entry, Route) for index in peers.devices(entry)}
        self.findings += host.check_rp_filter({words.device(index) for index in routed})
        if self.env is not None:
            self.findings += mtu.check_mtu(self.env, planned.mtu, *mtu.ports_of(self.nl), self.remedy)
        with self._looking("reach"):
            await self._reach(network, planned)

    async def _reach(self, network: NetworkConfig, planned: methods.Planned) -> None:
        asked = reach.targets(planned.method)
        if not asked:
            self.findings.append(ok("reach", "there is no peer"))
            return
        answers = await asyncio.to_thread(reach.ask, asked)
        port = {"vxlan": read_int(network.backend, "Port", 0, 0, 65535) or 8472, "udp": 8285}.get(network.backend_type)
        self.findings += reach.check_reach(asked, answers, f"UDP port {port}" if port else "IP packets of pods")

    async def _host(self, network: NetworkConfig, own: Lease | None) -> None:
        families = [pool.family for pool in network.pools]
        self.findings += host.check_forwarding(families)
        with self._looking("rules"):
            saved = rules.saved_filters()
            services = any("KUBE-" in line for lines in saved.values() for line in lines)
            self.findings += host.check_bridged(families, services=services)
            networks = [pool.network for pool in network.pools]
            if own is not None:
                self.findings += await self._own_rules(network, own)
            self.findings += rules.check_foreign_chains(rules.dropping_chains())
            self.findings += [
                finding for program, lines in saved.items() for finding in rules.check_forward(program, lines, networks)
            ]

    async def _own_rules(self, network: NetworkConfig, own: Lease) -> list[Finding]:
        policy = policy_of(self.options)
        if self.env is not None:  # what flanneld was told, whatever we were
            policy = replace(policy, masquerade=self.env.ip_masq)
        wanted = masquerade.plan((pool.network for pool in network.pools), own.subnets, policy)
        instance = instance_of(self.options.etcd_prefix)
        return await rules.check_ours(wanted, self.remedy, nftables=network.enable_nftables, instance=instance)

    @contextmanager
    def _looking(self, subject: str) -> Iterator[None]:
        """What goes wrong in the looking is a finding too, and keeps nothing else from being looked at."""
        try:
            yield
        except WRONG as wrong:
            self.findings.append(error(subject, str(wrong), SHOWN_BY.get(subject, ""), REMEDY.get(subject, "")))
        except (FlanneldError, OSError) as failure:
            self.findings.append(unknown(subject, f"cannot be looked at: {failure}"))
