"""What is shipped beside the code agrees with the code."""

import configparser
import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from syncd.configuration import Configuration, DaemonSettings, DestinationSettings, HttpSettings, load, parse
from syncd.configuration.broker_settings import ServiceBusSourceSettings
from syncd.configuration.model import StoreOptions
from syncd.configuration.workspace import WORKSPACE_KEYS
from syncd.core.limits import Limits
from syncd.runtime import giving_back

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "config").glob("*.toml"))
ENVIRONMENT = {
    "MLFLOW_TRACKING_TOKEN": "t",
    "MLFLOW_SERVER": "https://mlflow.example.org",
    "MLFLOW_SERVER_TOKEN": "t",
    "SYNCD_PASSWORD": "p",
    "DEVICE_NAME": "device-7",
    "SYNCD_TOKEN": "t",
    "SERVICE_BUS_CONNECTION": "Endpoint=sb://bus.example.org/;SharedAccessKeyName=k;SharedAccessKey=s",
}


STORE = '[[sources]]\nname = "a-store"\nkind = "mlruns"\npath = "mlruns"\n'
SERVER = '[[destinations]]\nname = "a-server"\nuri = "https://mlflow.example.org"\n'


def test_there_are_examples() -> None:
    assert {path.stem for path in EXAMPLES} >= {"training-machine", "edge-offline", "kubernetes-sidecar", "gateway"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_loads_without_a_warning(example: Path) -> None:
    assert load(example, environment=ENVIRONMENT).warnings == ()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_what_an_example_has_commented_out_is_right_too(example: Path) -> None:
    text = re.sub(r"^# (\[|\w+ = )", r"\1", example.read_text(), flags=re.MULTILINE)
    assert isinstance(parse(text, file=example, environment=ENVIRONMENT), Configuration)


@pytest.mark.parametrize("document", ["messages.md", "configuration.md"])
def test_what_a_document_shows_is_right(document: str) -> None:
    shown = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / document).read_text(), flags=re.DOTALL)
    assert shown
    for part in shown:
        text = part
        for table, needed in (("sources", STORE), ("destinations", SERVER)):
            text += needed if f"[[{table}]]" not in part else ""
        assert parse(text, file=Path("syncd.toml"), environment=ENVIRONMENT).warnings == ()


def test_the_manifest_holds_the_sidecars_example_and_leaves_it_time_to_drain() -> None:
    example = ROOT / "config" / "kubernetes-sidecar.toml"
    config_map, _, job = yaml.safe_load_all(example.with_suffix(".yaml").read_text())
    assert config_map["data"]["syncd.toml"] == example.read_text()
    pod = job["spec"]["template"]["spec"]
    settings = load(example, environment=ENVIRONMENT)
    assert pod["terminationGracePeriodSeconds"] > settings.daemon.shutdown_grace_s
    [sidecar] = pod["initContainers"]
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in sidecar["volumeMounts"]}
    assert mounts == {"/etc/syncd": True, "/var/lib/syncd": False, "/data/mlruns": True}
    assert {variable["name"] for variable in sidecar["env"]} == {"MLFLOW_SERVER", "MLFLOW_SERVER_TOKEN"}


def test_the_manifest_holds_the_gateways_example_and_scales_it_by_the_queue_it_reads() -> None:
    text = (ROOT / "config" / "kubernetes-gateway.yaml").read_text()
    config_map, service, gateways, access, scaling = yaml.safe_load_all(text)
    assert config_map["data"]["syncd.toml"] == (ROOT / "config" / "gateway.toml").read_text()
    settings = load(ROOT / "config" / "gateway.toml", environment=ENVIRONMENT)
    pod = gateways["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= settings.daemon.shutdown_grace_s + giving_back.AT_STOP_S + 20
    [container] = pod["containers"]
    assert {variable["name"] for variable in container["env"]} == {"SERVICE_BUS_CONNECTION", "SYNCD_TOKEN"}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    [claim] = gateways["spec"]["volumeClaimTemplates"]
    assert Path(mounts[claim["metadata"]["name"]]) == settings.daemon.state_dir
    assert gateways["spec"]["persistentVolumeClaimRetentionPolicy"]["whenScaled"] == "Retain"
    assert gateways["spec"]["selector"]["matchLabels"] == gateways["spec"]["template"]["metadata"]["labels"]
    assert service["metadata"]["name"] == gateways["spec"]["serviceName"]
    target = {"kind": gateways["kind"], "name": gateways["metadata"]["name"]}
    assert scaling["spec"]["scaleTargetRef"] == target
    [trigger] = scaling["spec"]["triggers"]
    [source] = settings.message_sources
    assert isinstance(source, ServiceBusSourceSettings)
    assert trigger["metadata"]["queueName"] == source.entity.queue
    assert trigger["authenticationRef"]["name"] == access["metadata"]["name"]


def test_the_unit_agrees_with_the_daemons_defaults() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(ROOT / "systemd" / "syncd.service")
    service = unit["Service"]
    assert float(service["TimeoutStopSec"]) > DaemonSettings().shutdown_grace_s
    assert Path("/var/lib") / service["StateDirectory"] == DaemonSettings().state_dir
    assert service["RestartPreventExitStatus"] == "78"


def test_every_key_is_documented_with_its_default() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    keys = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text, flags=re.MULTILINE))
    settings: list[DaemonSettings | StoreOptions | DestinationSettings | HttpSettings]
    settings = [DaemonSettings(), StoreOptions(name=""), DestinationSettings(name="", uri=""), HttpSettings()]
    for values in settings:
        for field in dataclasses.fields(values):
            value = getattr(values, field.name)
            if isinstance(value, float) or (isinstance(value, int) and field.name in keys):
                expected = str(value).lower() if isinstance(value, bool) else f"{value:g}"
                assert keys[field.name] in (f"`{expected}`", '`"2GiB"`')
            elif isinstance(value, str) and value:
                assert keys.get(field.name) == f'`"{value}"`' or field.name == "host"
    assert all(f"`{field.name}`" in text for field in dataclasses.fields(Limits))
    assert all(f"`{key}`" in text for key in WORKSPACE_KEYS if key != "datastores")
