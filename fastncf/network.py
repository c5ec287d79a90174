"""Addresses of this machine in the network, as other machines see it."""

import socket
import struct
import sys
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_GET_ADDRESS = 0x8915  # SIOCGIFADDR of Linux
_NAME_LENGTH, _ADDRESS_AT = 256, 20  # of the structure that it fills


def kernel_id() -> str:
    """Return a text that processes of one running kernel have in common, and no others."""
    with suppress(OSError):
        return _BOOT.read_text(encoding="ascii").strip()
    return f"{uuid.getnode():x}"


def route_to(host: str) -> str:
    """Return the address from which this machine reaches a host, which need not be there; its own by loopback."""
    with suppress(OSError, UnicodeError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        route.connect((host, 9))  # sends nothing
        return str(route.getsockname()[0])
    return "127.0.0.1"


def is_loopback(address: str) -> bool:
    """Return whether an address is one that a machine has for itself alone."""
    return address.startswith("127.")


def outside_address(own: str, others: Sequence[str]) -> str:
    """Return the address by which other machines reach this one.

    Args:
        own: of the route to the first process. It is a loopback address on the machine of that process, whose name
            often stands for one in ``/etc/hosts``.
        others: those of other processes.
    """
    outside = next((one for one in others if not is_loopback(one)), None)
    return route_to(outside) if is_loopback(own) and outside is not None else own


def interface_of(address: str) -> str | None:
    """Return the name of the network interface that has an address; None where the system does not tell."""
    if not sys.platform.startswith("linux"):
        return None
    from fcntl import ioctl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # it has no address
                found = ioctl(one.fileno(), _GET_ADDRESS, struct.pack(f"{_NAME_LENGTH}s", name.encode()))
                if socket.inet_ntoa(found[_ADDRESS_AT : _ADDRESS_AT + 4]) == address:
                    return name
    return None
