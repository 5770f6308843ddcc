"""Ansible filters: gateways, what is declared for one, and what it is to be.

    groups | gateway_names(hostvars)                  the hosts that are gateways
    groups | former_gateways(hostvars)                those that may have been some
    hostvars[name] | gateway_settings(name, groups)   what is declared for one, checked
    found | gateway_served                            the row of a host's instances, which gateways keep
    rows | gateway_merged(newer)                      the rows of all hosts, of one host the newer one
    settings | gateway_plan(rows)                     models, servers and problems
    plan | gateway_files(settings)                    the files beside its configuration
    settings | gateway_tls(pair, kept)                its certificate, and what is wrong with one that is given
    plan | gateway_live_models                        models and servers with what HAProxy fills into the front page
    plan | gateway_secrets                            those with keys in them
    users | gateway_user_maps                         the maps of its users
    users | gateway_token_limits                      the tokens that they have a day

The rules are in plugins/plugin_utils/gateway/.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..plugin_utils.gateway import answers, certificates, found, pages, plan, settings, users


class FilterModule:
    """See the module docstring."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "gateway_names": settings.gateway_names,
            "former_gateways": settings.former_gateways,
            "gateway_settings": settings.gateway_settings,
            "gateway_served": found.served,
            "gateway_merged": found.merged,
            "gateway_plan": plan.gateway_plan,
            "gateway_files": answers.gateway_files,
            "gateway_tls": certificates.gateway_tls,
            "gateway_live_models": pages.live_models,
            "gateway_secrets": answers.gateway_secrets,
            "gateway_user_maps": users.user_maps,
            "gateway_token_limits": users.token_limits,
        }
