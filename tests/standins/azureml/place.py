"""What the stand-in's workspace is called, and where it is reached."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PROVIDER = "Microsoft.MachineLearningServices"


@dataclass
class Place:
    """Names of the workspace and addresses of its services; ``port`` and ``ca`` are known once it runs."""

    subscription: str = "00000000-0000-0000-0000-000000000001"
    resource_group: str = "rg-standin"
    workspace: str = "ws-standin"
    workspace_id: str = "33333333-3333-3333-3333-333333333333"
    region: str = "westeurope"
    storage_account: str = "standinstorage"
    container: str = "azureml-blobstore"
    tenant: str = "11111111-1111-1111-1111-111111111111"
    client_id: str = "22222222-2222-2222-2222-222222222222"
    client_secret: str = "stand-in~secret"
    identity_header: str = "stand-in-header"
    port: int = 0
    ca: Path = Path()

    @property
    def scope(self) -> str:
        """The workspace's resource id, ``<SC>`` of the docs."""
        group = f"/subscriptions/{self.subscription}/resourceGroups/{self.resource_group}"
        return f"{group}/providers/{PROVIDER}/workspaces/{self.workspace}"

    @property
    def netloc(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The address of everything: ARM, the authority host, the data plane and storage."""
        return f"https://{self.netloc}"

    @property
    def tracking_uri(self) -> str:
        return f"azureml://{self.netloc}/mlflow/v2.0{self.scope}"

    @property
    def storage_url(self) -> str:
        """The storage account's address.

        azureml-mlflow downloads nothing, and says nothing, unless a URL matches
        ``https://*.blob.core.windows.net/*/*?*`` (is_source_uri_matches_storage_blob, read in 1.62.0.post6). The
        pattern does not hold the host to anything, so the account's host name as first part of the path fulfils it;
        azure-storage-blob takes URLs on 127.0.0.1 to be in just that form. No client has to be patched.
        """
        return f"{self.url}/{self.storage_account}.blob.core.windows.net"

    def artifact_uri(self, experiment_id: str, run_id: str) -> str:
        return f"{self.tracking_uri}/experiments/{experiment_id}/runs/{run_id}/artifacts"

    def client_environment(self) -> dict[str, str]:
        """Return the variables with which an unmodified client in a process of its own finds and trusts this."""
        identity = {"IDENTITY_ENDPOINT": f"{self.url}/msi/token", "IDENTITY_HEADER": self.identity_header}
        return {**self._environment(), **identity}

    def principal_environment(self) -> dict[str, str]:
        """Return the same for a client that logs in as a service principal.

        MSAL asks login.microsoftonline.com about an authority it does not know, unless it is told not to
        (``disable_instance_discovery``): azureml-mlflow as it is can not use this without the internet.
        """
        return {
            **self._environment(),
            "AZURE_AUTHORITY_HOST": self.url,
            "AZURE_TENANT_ID": self.tenant,
            "AZURE_CLIENT_ID": self.client_id,
            "AZURE_CLIENT_SECRET": self.client_secret,
        }

    def _environment(self) -> dict[str, str]:
        return {
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "REQUESTS_CA_BUNDLE": str(self.ca),  # requests: mlflow, azure-core
            "SSL_CERT_FILE": str(self.ca),  # Python's default context: aiohttp
            "AZUREML_CURRENT_CLOUD": "AzureCloud",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "NO_PROXY": "127.0.0.1",
        }
