"""Containers' hosts and resolv.conf as texts."""

from __future__ import annotations

from pathlib import Path

from runtime.networks.etc_files import (
    LOCALHOST,
    Resolver,
    container_resolver,
    extra_hosts,
    host_resolver,
    named_resolver,
    own_words,
    parse_resolver,
    render_hosts,
    upstream_servers,
)

HOST = Resolver(("127.0.0.1", "192.0.2.53", "::1"), ("example.org",), ("edns0",))


def test_a_resolver_file_is_read_as_the_library_reads_it() -> None:
    told = parse_resolver("# made by\nnameserver 192.0.2.1 ; first\ndomain a\nsearch b c\noptions ndots:2\noptions rotate\nx\n")
    assert told == Resolver(("192.0.2.1",), ("b", "c"), ("ndots:2", "rotate"))
    assert parse_resolver(told.text()) == told


def test_of_systemd_resolveds_stub_the_real_servers_are_told(tmp_path: Path) -> None:
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("nameserver 127.0.0.53\noptions edns0\n")
    real.write_text("nameserver 192.0.2.9\n")
    assert host_resolver(stub, real).servers == ("192.0.2.9",)
    assert host_resolver(stub, tmp_path / "none").servers == ("127.0.0.53",)
    assert host_resolver(tmp_path / "none", real) == Resolver()


def test_servers_of_the_host_alone_are_left_out_and_then_there_is_a_fallback() -> None:
    assert container_resolver(HOST, (), (), ()).servers == ("192.0.2.53",)
    assert container_resolver(Resolver(("127.0.0.1",)), (), (), ()).servers == ("8.8.8.8", "8.8.4.4")


def test_what_is_given_counts_and_a_dot_means_no_search() -> None:
    assert container_resolver(HOST, ("9.9.9.9",), (".",), ("rotate",)) == Resolver(("9.9.9.9",), (), ("rotate",))


def test_where_containers_have_names_the_engine_is_asked() -> None:
    assert named_resolver(HOST, (), ()).text() == "nameserver 127.0.0.11\nsearch example.org\noptions edns0 ndots:0\n"
    assert named_resolver(HOST, (), ("ndots:3",)).options == ("ndots:3",)
    assert named_resolver(Resolver(options=("ndots:5",)), (), ()).options == ("ndots:0",)


def test_the_engine_asks_the_hosts_own_servers_too() -> None:
    assert upstream_servers(HOST, ()) == HOST.servers
    assert upstream_servers(HOST, ("9.9.9.9",)) == ("9.9.9.9",)


def test_hosts_has_extra_lines_before_the_containers_own() -> None:
    told = render_hosts([("172.17.0.2", own_words("web", "example.org"))], extra_hosts(["db:192.0.2.7", "six:[::2]"], ()))
    assert told == f"{LOCALHOST}192.0.2.7\tdb\n::2\tsix\n172.17.0.2\tweb.example.org web\n"


def test_host_gateway_is_each_address_of_the_host() -> None:
    assert extra_hosts(["host.docker.internal:host-gateway"], ("172.17.0.1", "fd00::1")) == [
        ("host.docker.internal", "172.17.0.1"),
        ("host.docker.internal", "fd00::1"),
    ]


def test_a_host_name_with_dots_is_told_with_its_first_part() -> None:
    assert own_words("web.example.org", "") == ("web.example.org", "web")
    assert own_words("web", "") == ("web",)
