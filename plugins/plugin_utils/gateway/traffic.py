"""Servers of a host that a gateway is told about, before and after they change.

    gateways_before("rig-1", groups, hostvars)     the gateways that send requests to a host
    drained("rig-1", ["main"])                     {"rig-1_main": {}}
    taken_back("rig-1", ["main"], rows)            {"rig-1_main": {"port": 8600, "slots": 4}}: what is proven

    serving(hosts)                                 those of all instances that run as they were proven last
    seen(rows, "rig-1", looks)                     the rows of a status, with what each gateway says of them
    gateway_rows(looks)                            a row a gateway

``rows`` are those of modules llama_server_converge and llama_server_control.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .names import server_name
from .settings import gateway_settings

Row = Mapping[str, Any]

PROVEN = ("verified", "restored", "refused")  # phases after which what runs is what was proven


def gateways_before(
    names: Iterable[str], host: str, groups: Mapping[str, Iterable[str]], hostvars: Mapping[str, Any]
) -> list[str]:
    """The gateways among ``names`` that send requests to a host."""
    return [name for name in names if host in gateway_settings(hostvars[name], name, groups)["hosts"]]


def drained(names: Iterable[str], host: str) -> dict[str, dict[str, Any]]:
    """The servers of instances of a host."""
    return {server_name(host, name): {} for name in names}


def taken_back(names: Iterable[str], host: str, rows: Iterable[Row] | None) -> dict[str, dict[str, Any]]:
    """The servers of those instances that serve what was proven, with port and slots where their proof told them.

    Args:
        names: those that were to change.
        rows: what came of it; None where nobody knows. Instances without a row were not begun, and serve as before.
    """
    if rows is None:
        return {}
    by_name = {row["name"]: row for row in rows}
    return {server_name(host, name): _place(by_name.get(name)) for name in names if _serves(by_name.get(name))}


def serving(hosts: Iterable[Row]) -> dict[str, dict[str, Any]]:
    """The servers of the instances that run as they were proven last, and that no run is at work on.

    Args:
        hosts: what ``playbooks/endpoints.yml`` finds of each: ``host`` and ``deployed``, the rows of a status.
    """
    return {
        server_name(host["host"], row["name"]): {}
        for host in hosts
        for row in host["deployed"]
        if row["state"] == "running" and row.get("phase") in PROVEN and not row.get("switching")
    }


def unreachable(results: Iterable[Row]) -> str:
    """The error for gateways that Ansible does not get to, by the results of a loop over them."""
    return "\n".join(
        f"gateway {one['gateway_name']} can't be reached, so it would go on sending requests here: mend that, or take "
        f"{one['gateway_name']} out of group gateways. It says: {' '.join(str(one.get('msg')).split())}"
        for one in results
    )


def seen(rows: Iterable[Row], host: str, looks: Iterable[Row]) -> list[dict[str, Any]]:
    """The rows of a status with ``gateways``: by gateway the state of an instance there, for those that know it.

    Args:
        looks: of a loop of module gateway_servers over the gateways.
    """
    states = {
        str(look["gateway_name"]): {server["name"]: server["state"] for server in look.get("servers") or ()}
        for look in looks
    }
    return [
        {**row, "gateways": {
            name: servers[server_name(host, row["name"])]
            for name, servers in states.items() if server_name(host, row["name"]) in servers
        }}
        for row in rows
    ]  # fmt: skip


def gateway_rows(looks: Iterable[Row]) -> list[dict[str, Any]]:
    """A row for each gateway that is there, in the shape of an instance's."""
    rows: list[dict[str, Any]] = []
    for look in looks:
        name, state = str(look["gateway_name"]), look.get("state")
        trouble = None
        if look.get("failed") or look.get("unreachable"):
            state, trouble = "unreachable", " ".join(str(look.get("msg")).split())
        elif state == "down":
            trouble = f"nothing gets through it: ansible-playbook playbooks/gateway.yml ({look.get('why')})"
        if state != "absent":
            rows.append({"host": name, "name": "gateway", "state": state, "changed": False, "checks": [], "error": None,
                         "trouble": trouble, "remark": None, "health": 200})  # fmt: skip
    return rows


def _serves(row: Row | None) -> bool:
    """True where what runs is proven: it was, or nothing was touched."""
    if row is None:
        return True
    if row["state"] == "stopped" or row.get("removed"):
        return False
    return not (row["state"] == "failed" and row.get("changed"))


def _place(row: Row | None) -> dict[str, Any]:
    proven = (row or {}).get("restored") or row or {}
    port = str(proven.get("url") or "").rpartition(":")[2]
    told = {"port": int(port) if port.isdigit() else None, "slots": proven.get("slots")}
    return {key: value for key, value in told.items() if value}
