"""A program ``az`` that answers ``az account get-access-token`` as the Azure CLI does for who is logged in.

az = install(folder, place)            # then put ``folder`` on PATH
az.log_out()
az.calls()                             # the arguments of each call
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.standins.azureml.place import Place

_SCRIPT = """#!{python}
import json, ssl, sys, urllib.parse, urllib.request
folder = {folder!r}
with open(folder + "/calls", "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
login = json.load(open(folder + "/login"))
if not login:
    sys.exit("ERROR: Please run 'az login' to setup account.")
scope = sys.argv[sys.argv.index("--resource") + 1] + "/.default"
form = {{"grant_type": "client_credentials", "scope": scope, **login["form"]}}
context = ssl.create_default_context(cafile=login["ca"])
with urllib.request.urlopen(login["url"], urllib.parse.urlencode(form).encode(), context=context) as answer:
    token = json.load(answer)
import time
print(json.dumps({{"accessToken": token["access_token"], "expires_on": int(time.time()) + token["expires_in"]}}))
"""


@dataclass(frozen=True)
class AzCommand:
    """The program, and who is logged in."""

    folder: Path

    def log_out(self) -> None:
        (self.folder / "login").write_text("null")

    def calls(self) -> list[list[str]]:
        file = self.folder / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def install(folder: Path, place: Place) -> AzCommand:
    """Put ``az`` into the folder; it gets its tokens from the stand-in's token endpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "az"
    program.write_text(_SCRIPT.format(python=sys.executable, folder=str(folder)))
    program.chmod(0o755)
    login = {
        "url": f"{place.url}/{place.tenant}/oauth2/v2.0/token",
        "ca": str(place.ca),
        "form": {"client_id": place.client_id, "client_secret": place.client_secret},
    }
    (folder / "login").write_text(json.dumps(login))
    return AzCommand(folder)
