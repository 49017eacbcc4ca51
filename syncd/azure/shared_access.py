"""Signed addresses (service SAS) of a container, made with the key of its storage account.

The text that is signed: learn.microsoft.com "Create a service SAS", version 2020-12-06 and later, read 2026-11; tried
against Azurite.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from typing import Final
from urllib.parse import quote, urlencode

from syncd.errors import Rejected

VERSION: Final = "2021-12-02"
LIFE_S: Final = 8 * 3600
CLOCK_DIFFERENCE_S: Final = 900  # no start is given: storage's clock may be behind ours


def container_signature(account: str, container: str, key: str, *, permissions: str, protocol: str = "https") -> str:
    """Return the query that opens a container's blobs for some hours.

    Args:
        account: the storage account's name.
        container: the container's name.
        key: the account's key, in Base64.
        permissions: Azure's letters, in their order ("racw").
        protocol: "https", or "https,http".

    Raises:
        Rejected: the key is none.
    """
    expiry = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + LIFE_S + CLOCK_DIFFERENCE_S))
    resource = f"/blob/{account}/{container}"
    text = "\n".join((permissions, "", expiry, resource, "", "", protocol, VERSION, "c", "", "", "", "", "", "", ""))
    try:
        secret = base64.b64decode(key, validate=True)
    except binascii.Error as exc:
        raise Rejected("the account's key is not Base64", doing="signing for the container", target=container) from exc
    signature = base64.b64encode(hmac.digest(secret, text.encode(), hashlib.sha256)).decode()
    fields = {"sv": VERSION, "se": expiry, "sr": "c", "sp": permissions, "spr": protocol, "sig": signature}
    return urlencode(fields, quote_via=quote)
