"""Ansible filters: the gateways before a host, and what they are told of its servers.

    names | gateways_before(host, groups, hostvars)     those of these gateways that send requests to a host
    instances | gateway_drained(host)                   servers that are to get no more requests
    instances | gateway_taken_back(host, rows)          those that are proven
    hosts | gateway_serving                             those that run as they were proven last
    rows | gateway_seen(host, looks)                    rows of a status, with what each gateway says of them
    looks | gateway_rows                                a row a gateway
    results | gateway_unreachable                       the error for those that could not be asked

The rules are in plugins/plugin_utils/gateway/traffic.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..plugin_utils.gateway import traffic


class FilterModule:
    """See the module docstring."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "gateways_before": traffic.gateways_before,
            "gateway_drained": traffic.drained,
            "gateway_taken_back": traffic.taken_back,
            "gateway_serving": traffic.serving,
            "gateway_seen": traffic.seen,
            "gateway_rows": traffic.gateway_rows,
            "gateway_unreachable": traffic.unreachable,
        }
