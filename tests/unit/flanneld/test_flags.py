"""flanneld's flags and variables in Go's syntax."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import fields
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanneld.flags import FLAGS, Options, parse_flags, read_options, usage
from flanneld.goflags import HelpRequested, UndefinedFlag, UsageError


def options(*argv: str, **environ: str) -> Options:
    return read_options(argv, environ)


def test_nothing_given_is_flannels_defaults() -> None:
    plain = options()
    assert plain == Options()
    assert plain.etcd_endpoints == ("http://127.0.0.1:4001", "http://127.0.0.1:2379")
    assert (plain.etcd_prefix, plain.subnet_file) == ("/coreos.com/network", "/run/flannel/subnet.env")
    assert (plain.subnet_lease_renew_margin, plain.iptables_resync, plain.healthz_port) == (60, 5, 0)
    assert (plain.iptables_forward_rules, plain.ip_masq, plain.kube_subnet_mgr) == (True, False, False)


@pytest.mark.parametrize(
    "argv",
    [["-etcd-prefix=/x"], ["--etcd-prefix=/x"], ["-etcd-prefix", "/x"], ["--etcd-prefix", "/x"], ["--etcd-prefix", "/x", "--"]],
)
def test_one_and_two_dashes_equals_and_next_word_are_the_same(argv: list[str]) -> None:
    assert options(*argv).etcd_prefix == "/x"


@pytest.mark.parametrize(
    ("text", "value"), [*((word, True) for word in ["1", "t", "T", "true", "TRUE", "True"]), ("0", False), ("F", False)]
)
def test_boolean_takes_what_go_takes(text: str, value: bool) -> None:
    assert options(f"--ip-masq={text}").ip_masq is value
    assert options(FLANNELD_IP_MASQ=text).ip_masq is value


def test_boolean_does_not_take_the_next_word() -> None:
    with pytest.raises(UndefinedFlag, match="unexpected argument 'false'"):
        options("--ip-masq", "false")


def test_value_may_start_with_a_dash_and_contain_equals() -> None:
    given = options("--etcd-username", "-u", "--etcd-prefix=a=b")
    assert (given.etcd_username, given.etcd_prefix) == ("-u", "a=b")


def test_last_of_a_flag_given_twice_wins() -> None:
    assert options("--etcd-prefix=/a", "--etcd-prefix=/b").etcd_prefix == "/b"


def test_repeatable_flags_keep_their_order_and_skip_empty_ones() -> None:
    given = options("--iface=eth1", "--iface=", "--iface", "10.0.0.1", "--iface-regex=^10\\.", "--iface-regex=eth.*")
    assert given.iface == ("eth1", "10.0.0.1")
    assert given.iface_regex == (re.compile(r"^10\."), re.compile("eth.*"))


def test_variable_is_one_element_of_a_repeatable_flag_as_in_go() -> None:
    assert options(FLANNELD_IFACE="eth0,eth1").iface == ("eth0,eth1",)


def test_command_line_beats_variable_even_a_wrong_one() -> None:
    assert options("--healthz-port=1", FLANNELD_HEALTHZ_PORT="2").healthz_port == 1
    assert options("--healthz-port=1", FLANNELD_HEALTHZ_PORT="x").healthz_port == 1
    assert options("--iface=eth0", FLANNELD_IFACE="eth1").iface == ("eth0",)


def test_empty_variable_and_empty_public_ip_are_not_given() -> None:
    assert options("--public-ip=", "--public-ipv6=", FLANNELD_HEALTHZ_PORT="") == Options()


def test_addresses_and_endpoints_are_parsed() -> None:
    given = options(
        "--public-ip=192.0.2.1", "--public-ipv6=2001:db8::1", "--etcd-endpoints=https://a:1/, http://[::1]:2", "--healthz-ip=::"
    )
    assert (given.public(4), given.public(6)) == (ip_address("192.0.2.1"), ip_address("2001:db8::1"))
    assert given.etcd_endpoints == ("https://a:1", "http://[::1]:2")
    assert given.healthz_ip == ip_address("::")


def test_labels_are_pairs_as_kubernetes_writes_them() -> None:
    assert options("--node-labels=rack=r1, example.com/role=rr,empty=").node_labels == (
        ("rack", "r1"),
        ("example.com/role", "rr"),
        ("empty", ""),
    )
    assert options(FLANNELD_NODE_LABELS="rack=r1,rack=r1").node_labels == (("rack", "r1"),)


@pytest.mark.parametrize("text", ["rack", "=r1", "rack=r 1", "rack=r1,rack=r2", "-rack=r1", "rack=r1=r2"])
def test_labels_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="node-labels: expected"):
        options("--node-labels", text)


def test_klog_flags_are_accepted_and_v_means_debug() -> None:
    argv = [
        "-v=10",
        "--vmodule=a=1",
        "-logtostderr",
        "--alsologtostderr=false",
        "--log_backtrace_at",
        ":0",
        "-stderrthreshold=WARNING",
    ]
    assert options(*argv).debug
    assert not options("-v", "0").debug


def test_ca_alone_is_enough_for_tls() -> None:
    assert options("--etcd-cafile=/ca.pem").etcd_cafile == "/ca.pem"


def test_password_is_not_in_the_representation() -> None:
    assert "hunter2" not in repr(options("--etcd-password=hunter2"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--no-such"], "flag provided but not defined: -no-such"),
        (["--networks=a"], "flag provided but not defined: -networks"),
        (["---iface=x"], "bad flag syntax: ---iface=x"),
        (["-=x"], "bad flag syntax: -=x"),
        (["eth0"], "unexpected argument 'eth0'"),
        (["-"], "unexpected argument '-'"),
        (["--", "--ip-masq"], "unexpected argument '--ip-masq'"),
        (["--iface"], "flag needs an argument: -iface"),
        (["--ip-masq=yes"], "invalid value 'yes' for flag -ip-masq: expected true or false"),
        (["--subnet-lease-renew-margin=0"], "'0' for flag -subnet-lease-renew-margin: expected a number from 1 to 1439"),
        (["--subnet-lease-renew-margin=1440"], "'1440' for .*1 to 1439"),
        (["--healthz-port=65536"], "'65536' for flag -healthz-port: expected a number from 0 to 65535"),
        (["--healthz-port= 80"], "' 80' for flag -healthz-port"),
        (["--healthz-port=080"], "'080' for flag -healthz-port"),
        (["--healthz-port=" + "9" * 5000], "for flag -healthz-port: expected a number"),
        (["--iptables-resync=0"], "'0' for flag -iptables-resync"),
        (["--public-ip=10.0.0"], "'10.0.0' for flag -public-ip: expected an IPv4 address"),
        (["--public-ip=::1"], "'::1' for flag -public-ip: expected an IPv4 address"),
        (["--public-ipv6=10.0.0.1"], "'10.0.0.1' for flag -public-ipv6: expected an IPv6 address"),
        (["--healthz-ip=lo"], "'lo' for flag -healthz-ip: expected an IP address"),
        (["--iface-can-reach=a.example"], "'a.example' for flag -iface-can-reach: expected an IP address"),
        (["--iface-regex=["], "'\\[' for flag -iface-regex: expected a regular expression"),
        (["--log-format=xml"], "'xml' for flag -log-format: expected text or json"),
        (["--etcd-keyfile=k"], "etcd-keyfile 'k' needs etcd-certfile"),
        (["--etcd-certfile=c"], "etcd-certfile 'c' needs etcd-keyfile"),
    ],
)
def test_wrong_command_lines_are_errors_that_name_flag_and_value(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options(*argv)


@pytest.mark.parametrize(
    "endpoint", ["", "127.0.0.1:2379", "http://", "http://a", "ftp://a:1", "http://a:0", "http://a:65536", "http://[x]:1"]
)
@pytest.mark.parametrize("good", ["http://ok:1,{}", "{},http://ok:1"])
def test_wrong_endpoint_is_named_among_good_ones(good: str, endpoint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"expected http://host:port or https://host:port, got {endpoint!r}")):
        options("--etcd-endpoints=" + good.format(endpoint))


def test_wrong_variable_is_an_error_that_names_it() -> None:
    with pytest.raises(UsageError, match="invalid value 'x' for FLANNELD_HEALTHZ_PORT: expected a number"):
        options(FLANNELD_HEALTHZ_PORT="x")


@pytest.mark.parametrize("word", ["-h", "--h", "-help", "--help"])
def test_help_stops_at_once(word: str) -> None:
    with pytest.raises(HelpRequested):
        options(word, "--no-such")


def test_version_beats_whatever_else_is_wrong() -> None:
    assert options("--version", "--etcd-keyfile=k", FLANNELD_HEALTHZ_PORT="x").version
    assert not options(FLANNELD_VERSION="true").version


@pytest.mark.parametrize(
    ("argv", "status", "says"),
    [
        (["-h"], 0, "Usage: flanneld"),
        (["--version"], 0, "tartan "),
        (["--no-such"], 2, "Usage: flanneld"),
        (["--no-such"], 2, "flanneld: flag provided but not defined: -no-such\n"),
        (["--healthz-port=x"], 2, "flanneld: invalid value 'x' for flag -healthz-port"),
    ],
)
def test_ends_print_on_stderr_and_set_the_exit_status(
    capsys: pytest.CaptureFixture[str], argv: list[str], status: int, says: str
) -> None:
    with pytest.raises(SystemExit) as end:
        parse_flags(argv, {})
    assert (end.value.code, says in capsys.readouterr().err) == (status, True)


def test_usage_lists_every_flag_with_its_default_in_gos_style() -> None:
    text = usage()
    assert all(re.search(rf"^  -{name}( \w+)?$", text, re.MULTILINE) for name in FLAGS)
    assert '  -etcd-prefix string\n    \tprefix of this network\'s keys in etcd (default "/coreos.com/network")\n' in text
    assert "  -iptables-forward-rules\n    \tlet the firewall forward the pod network's packets (default true)\n" in text


def test_each_option_is_a_flag_of_that_name() -> None:
    assert {option.name.replace("_", "-") for option in fields(Options)} <= set(FLAGS)


WORDS = st.one_of(
    st.text(max_size=8), st.sampled_from(sorted(FLAGS)).map("--{}".format), st.sampled_from(sorted(FLAGS)).map("-{}=1".format)
)


@given(
    st.lists(WORDS, max_size=4),
    st.dictionaries(st.sampled_from(["FLANNELD_IFACE", "FLANNELD_V", "FLANNELD_IFACE_REGEX"]), st.text(max_size=8)),
)
def test_any_words_are_options_or_one_of_two_errors(argv: list[str], environ: dict[str, str]) -> None:
    with suppress(UsageError, HelpRequested):
        assert isinstance(read_options(argv, environ), Options)


def test_a_value_that_is_no_utf8_is_refused() -> None:
    with pytest.raises(UsageError, match=r"invalid value '/\\udce9' for flag -etcd-prefix: expected UTF-8"):
        read_options(["-etcd-prefix=/\udce9"], {})
