"""What a Redis URL says."""

from __future__ import annotations

import re

import pytest

from recsys.errors import ConfigurationError
from recsys.features.redis.address import Node, Tls, parse


def test_one_server_with_user_password_and_database() -> None:
    address = parse("redis://app:pa%20ss%2F@cache:6380/2")
    assert address.nodes == (Node("cache", 6380),)
    assert (address.username, address.password, address.database) == ("app", "pa ss/", 2)
    assert not address.is_cluster
    assert address.tls is None
    assert str(address) == "cache:6380/2"


def test_defaults() -> None:
    address = parse("redis://")
    assert address.nodes == (Node("localhost", 6379),)
    assert (address.username, address.password, address.database) == (None, None, 0)
    assert parse("redis://[::1]:7").nodes == (Node("::1", 7),)
    assert parse("redis://:secret@h").password == "secret"
    assert parse("unix:///run/r.sock?db=3").nodes == (Node("/run/r.sock", 0),)


def test_a_cluster_with_tls() -> None:
    address = parse("rediss+cluster://u:p@a:1,b:2/?ssl_ca_certs=/ca.pem&read_from=replica")
    assert address.is_cluster
    assert address.reads_replicas
    assert address.nodes == (Node("a", 1), Node("b", 2))
    assert address.tls == Tls(ca_certs="/ca.pem")


def test_replicas_of_one_server() -> None:
    address = parse("redis://a:1/0?replica=b:2&replica=c:3")
    assert address.replicas == (Node("b", 2), Node("c", 3))
    assert address.reads_replicas


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://a", 'wanted a URL of redis://, .*; found "http"'),
        ("redis://a:port", 'wanted host:port, found port "port"'),
        ("redis://a/x", 'wanted the number of a database, found "x"'),
        ("redis+cluster://a/3", "a cluster has database 0 alone, found 3"),
        ("redis://a,b", r"wanted one server, found 2; .*redis\+cluster"),
        ("redis://a?socket=1", 'wanted options among db, .*; found "socket"'),
        ("redis://a?read_from=moon", "wanted read_from=primary or"),
        ("redis://a?read_from=replica", "add replica=host:port"),
    ],
)
def test_what_is_no_address_is_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse(url)


def test_no_message_shows_the_password() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse("user:hunter2@cache:6379")
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in str(parse("redis://user:hunter2@cache:6379"))


def test_a_missing_certificate_is_named() -> None:
    with pytest.raises(ConfigurationError, match=re.escape("ssl_ca_certs=/no/ca.pem")):
        Tls(ca_certs="/no/ca.pem").context()
