"""Addresses of this machine."""

import sys

import pytest

from fastncf.network import interface_of, is_loopback, kernel_id, outside_address, route_to


def test_processes_of_a_kernel_have_one_id():
    assert kernel_id() == kernel_id() != ""


@pytest.mark.parametrize("host", ["localhost", "127.0.1.1", "no such host", "x" * 300, "a..b"])
def test_routes_to_this_machine_and_to_nowhere_are_loopback(host):
    assert is_loopback(route_to(host))


def test_an_address_of_the_outside_is_kept_and_one_of_loopback_stays_where_nothing_is_outside():
    assert outside_address("10.9.0.2", ["127.0.0.1", "10.9.0.2"]) == "10.9.0.2"
    assert outside_address("127.0.1.1", ["127.0.1.1", "127.0.0.1"]) == "127.0.1.1"


def test_the_machine_of_the_first_process_takes_the_route_to_another(monkeypatch):
    monkeypatch.setattr("fastncf.network.route_to", {"10.9.0.2": "10.9.0.1"}.__getitem__)
    assert outside_address("127.0.1.1", ["127.0.1.1", "10.9.0.2"]) == "10.9.0.1"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux")
def test_interfaces_have_names():
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") is None
