"""Azure's clouds: where one signs in, where Azure Resource Manager is, whom a token is for. Values, no I/O.

Sources: azure-identity 1.27 ``AzureAuthorityHosts`` and azureml-mlflow 1.62.0.post6 ``_common/_cloud/cloud.py`` (read
2026-11).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """One cloud under the name that ``az cloud list`` and ``AZUREML_CURRENT_CLOUD`` give it.

    ``authority_host`` and ``resource_manager`` are https URLs without a trailing slash; they may be another way to the
    same cloud (a private link, a gateway). ``audience`` is whom Azure Resource Manager's tokens are for.
    ``workspace_hosts`` and ``storage_hosts`` are how the names of workspace services and of storage end. ``studio`` is
    the web page of all workspaces (learn.microsoft.com "how-to-access-azureml-behind-firewall").
    """

    name: str
    authority_host: str
    resource_manager: str
    audience: str
    workspace_hosts: str
    storage_hosts: str
    studio: str

    @property
    def scope(self) -> str:
        """What a token is asked for that opens Azure Resource Manager and a workspace's MLflow endpoint alike.

        azureml-mlflow sends the workspace a token for Azure Resource Manager (``_get_default_scope``).
        """
        return f"{self.audience}/.default"


PUBLIC: Final = Cloud(
    name="AzureCloud",
    authority_host="https://login.microsoftonline.com",
    resource_manager="https://management.azure.com",
    audience="https://management.azure.com",
    workspace_hosts=".api.azureml.ms",
    storage_hosts=".core.windows.net",
    studio="https://ml.azure.com",
)
US_GOVERNMENT: Final = Cloud(
    name="AzureUSGovernment",
    authority_host="https://login.microsoftonline.us",
    resource_manager="https://management.usgovcloudapi.net",
    audience="https://management.usgovcloudapi.net",
    workspace_hosts=".api.ml.azure.us",
    storage_hosts=".core.usgovcloudapi.net",
    studio="https://ml.azure.us",
)
CHINA: Final = Cloud(
    name="AzureChinaCloud",
    authority_host="https://login.chinacloudapi.cn",
    resource_manager="https://management.chinacloudapi.cn",
    audience="https://management.chinacloudapi.cn",
    workspace_hosts=".api.ml.azure.cn",
    storage_hosts=".core.chinacloudapi.cn",
    studio="https://studio.ml.azure.cn",
)
CLOUDS: Final = {cloud.name: cloud for cloud in (PUBLIC, US_GOVERNMENT, CHINA)}


def cloud_of_host(host: str) -> Cloud | None:
    """Return the cloud that a workspace's host ("westeurope.api.azureml.ms") belongs to, None for any other host."""
    name = host.partition(":")[0].lower()
    return next((cloud for cloud in CLOUDS.values() if name.endswith(cloud.workspace_hosts)), None)


def authority_of_host(host: str) -> str:
    """Return where one signs in for Service Bus or Event Grid at a host ("ns.servicebus.usgovcloudapi.net").

    How such names end: learn.microsoft.com "rest/api/servicebus" (read 2026-11); Event Grid's were not looked up.
    """
    name = host.partition(":")[0].lower()
    if name.endswith((".usgovcloudapi.net", ".azure.us")):
        return US_GOVERNMENT.authority_host
    if name.endswith((".chinacloudapi.cn", ".azure.cn")):
        return CHINA.authority_host
    return PUBLIC.authority_host
