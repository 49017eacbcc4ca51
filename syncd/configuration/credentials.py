"""Credentials of destinations that are not written as such: in the URI, or in MLflow's environment variables.

Rules
-----
1. A URI that leaves this module holds no user and no password, so that it may be printed.
2. A credential of the environment is used where exactly one destination has none of its own: it is never sent to a
   server that it may not be meant for.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import replace
from urllib.parse import unquote, urlsplit

from syncd.configuration.model import DestinationSettings
from syncd.configuration.relay_settings import RelaySettings
from syncd.configuration.secret import Secret, SecretOrigin

USERNAME, PASSWORD, TOKEN = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"


def split_userinfo(uri: str, *, origin: SecretOrigin) -> tuple[str, str | None, Secret | None]:
    """Return the URI without ``user:password@``, the user and the password (None if the URI holds none)."""
    parts = urlsplit(uri)
    userinfo, at, host = parts.netloc.rpartition("@")
    if not at:
        return uri, None, None
    username, _, password = userinfo.partition(":")
    return parts._replace(netloc=host).geturl(), unquote(username), Secret(unquote(password), origin=origin)


def is_loopback(host: str) -> bool:
    """Say whether the host is this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def has_credentials(settings: DestinationSettings) -> bool:
    """Say whether the destination has credentials of its own, as a workspace always has."""
    return settings.token is not None or settings.username is not None or settings.workspace is not None


def with_environment_credentials(
    destinations: Sequence[DestinationSettings | RelaySettings], environment: Mapping[str, str]
) -> tuple[list[DestinationSettings | RelaySettings], str]:
    """Return the destinations, the one without credentials completed from MLFLOW_TRACKING_*, and a warning or "".

    As in MLflow, user and password come before a token.
    """
    servers = [settings for settings in destinations if isinstance(settings, DestinationSettings)]
    bare = [settings for settings in servers if not has_credentials(settings)]
    username, password, token = (environment.get(name, "") for name in (USERNAME, PASSWORD, TOKEN))
    if not bare or not (token or (username and password)):
        return list(destinations), ""
    if len(bare) > 1:
        names = ", ".join(settings.name for settings in bare)
        return list(destinations), f"MLFLOW_TRACKING_* is not used: it could be meant for any of {names}"
    if username and password:
        completed = replace(bare[0], username=username, password=Secret(password, origin="environment"))
    else:
        completed = replace(bare[0], token=Secret(token, origin="environment"))
    return [completed if settings is bare[0] else settings for settings in destinations], ""
