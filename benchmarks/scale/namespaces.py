"""Machines on one host: network namespaces that a switch connects, each with its hostname, processes and /tmp."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from disk.errors import DiskError

_SUBNET = "10.77.0"  # seen in these namespaces only
_PREFIX = f"disk-{os.getpid()}-"


class Network:
    """Machines and the switch between them, which end with the `with` block. The host's own network is not touched.

    folder: of their /tmp, itself not below /tmp. Raises DiskError without root or iproute2.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        if os.geteuid() != 0:
            raise DiskError("network namespaces need root")
        self.machines = {
            name: Machine(name, f"{_SUBNET}.{number}", folder / name) for number, name in enumerate(names, 1)
        }
        self._switch = f"{_PREFIX}switch"
        hosts = folder / "hosts"
        lines = ["127.0.0.1 localhost", *(f"{machine.address} {name}" for name, machine in self.machines.items())]
        hosts.write_text("\n".join(lines) + "\n")
        self._hosts = hosts

    def __enter__(self) -> dict[str, Machine]:
        try:
            _ip("netns", "add", self._switch)
            _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
            _ip("-n", self._switch, "link", "set", "bridge", "up")
            for machine in self.machines.values():
                machine.start(self._switch, self._hosts)
        except BaseException:
            self.__exit__()
            raise
        return self.machines

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for machine in self.machines.values():
            machine.end()
        _ip("netns", "delete", self._switch)


class Machine:
    """One machine; `start` plugs it in, `run` runs a program on it, `cut` pulls its cable, `end` turns it off."""

    def __init__(self, name: str, address: str, folder: Path) -> None:
        self.name, self.address, self.folder = name, address, folder
        self._namespace = f"{_PREFIX}{name}"
        self._first: subprocess.Popen[bytes] | None = None

    def start(self, switch: str, hosts: Path) -> None:
        """Turn it on, with a cable to the switch."""
        self.folder.mkdir()
        _ip("netns", "add", self._namespace)
        cable = ["link", "add", "eth0", "type", "veth", "peer", "name", f"to-{self.name}", "netns", switch]
        _ip("-n", self._namespace, *cable)
        _ip("-n", switch, "link", "set", f"to-{self.name}", "master", "bridge", "up")
        _ip("-n", self._namespace, "address", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", self._namespace, "link", "set", device, "up")
        boot = (
            f"hostname {self.name}; mount --bind {hosts} /etc/hosts; mount --bind {self.folder} /tmp; "
            "mount -t tmpfs tmpfs /dev/shm; echo; exec sleep infinity"
        )
        apart = ["unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = ["ip", "netns", "exec", self._namespace, *apart, "sh", "-c", boot]
        self._first = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._first.stdout is not None
        if not self._first.stdout.readline():
            raise DiskError(f"the machine {self.name} did not start")

    def run(self, command: Sequence[str], environment: Mapping[str, str] = {}, **options: Any) -> subprocess.Popen[str]:
        """Start a program on this machine; options are those of Popen."""
        inside = ["nsenter", "--target", str(self._inside()), "--net", "--uts", "--mount", "--pid", "--wd=/"]
        return subprocess.Popen(
            [*inside, *command], env={**os.environ, **environment}, text=True, **options
        )  # fmt: skip

    def cut(self) -> None:
        """Pull the cable: its programs run on, but nobody hears of them."""
        _ip("-n", self._namespace, "link", "set", "eth0", "down")

    def end(self) -> None:
        """Turn it off: SIGKILL to all of its processes."""
        if self._first is not None:
            self._first.kill()  # the children go with it
            self._first.wait()
            self._first = None
            _ip("netns", "delete", self._namespace)

    def _inside(self) -> int:
        assert self._first is not None
        return int(Path(f"/proc/{self._first.pid}/task/{self._first.pid}/children").read_text().split()[0])


def _ip(*arguments: str) -> None:
    try:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise DiskError("there is no `ip`; install iproute2") from None
    except subprocess.CalledProcessError as error:
        raise DiskError(f"ip {' '.join(arguments)}: {error.stderr.strip()}") from error
