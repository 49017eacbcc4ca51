"""The tables of brokers: what is read, and that each mistake is named by line, key and the right way."""

from pathlib import Path

import pytest

from syncd.azure.credentials import Credentials
from syncd.azure.sign_in import AzureCli
from syncd.configuration import (
    Configuration,
    InvalidConfiguration,
    MqttBroker,
    MqttSinkSettings,
    MqttSourceSettings,
    Problem,
    Secret,
    ServiceBusEntity,
    ServiceBusSinkSettings,
    ServiceBusSourceSettings,
    parse,
)
from syncd.runtime.broker_assembly import service_bus_address

CONNECTION = "Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=k;SharedAccessKey=s3cret="
ENVIRONMENT = {"BUS": CONNECTION, "PASSWORD": "pa55"}
DESTINATION = "[[destinations]]\nname = 'w'\nuri = 'https://mlflow.example.org'\n"
BUS = "[[{table}]]\nname = 'bus'\nkind = 'service-bus'\n"
MQTT = "[[{table}]]\nname = 'm'\nkind = 'mqtt'\nhost = '127.0.0.1'\n"
FIRST_LINE = DESTINATION.count("\n") + 1


def read(table: str) -> Configuration:
    text = DESTINATION + table
    if "[[sources]]" not in table:
        text += "\n[[sources]]\nname = 's'\nkind = 'mlruns'\npath = '/x'\n"
    return parse(text, file=Path("/etc/syncd/syncd.toml"), environment=ENVIRONMENT)


def only_problem(table: str) -> Problem:
    with pytest.raises(InvalidConfiguration) as caught:
        read(table)
    [problem] = caught.value.problems
    return problem


def secret(text: str) -> Secret:
    return Secret(text, origin="environment")


# ---------------------------------------------------------------- what is read


def test_a_queue_with_a_connection_string_is_read() -> None:
    table = BUS.format(table="sources") + "connection_string = { env = 'BUS' }\nqueue = 'in'\n"
    [source] = read(table).message_sources
    assert source == ServiceBusSourceSettings(
        name="bus", entity=ServiceBusEntity(connection_string=secret(CONNECTION), queue="in"), max_sessions=8
    )


def test_a_subscription_of_a_namespace_is_read() -> None:
    table = BUS.format(table="sources") + (
        "fully_qualified_namespace = 'ns.servicebus.windows.net'\ntopic = 't'\nsubscription = 's'\n"
        "credential = 'azure-cli'\nmax_sessions = 3\n"
    )
    [source] = read(table).message_sources
    assert source == ServiceBusSourceSettings(
        name="bus",
        entity=ServiceBusEntity(
            fully_qualified_namespace="ns.servicebus.windows.net", sign_in=AzureCli(), topic="t", subscription="s"
        ),
        max_sessions=3,
    )


def test_the_queue_may_be_told_by_the_connection_string() -> None:
    table = BUS.format(table="sources") + f"connection_string = '{CONNECTION};EntityPath=in'\n"
    configuration = read(table)
    [source] = configuration.message_sources
    assert isinstance(source, ServiceBusSourceSettings)
    assert source.entity.queue == "in"
    [warning] = configuration.warnings
    assert "sources[0].connection_string: this secret is written out" in warning
    assert "s3cret" not in repr(configuration)


def test_every_key_of_an_mqtt_source_is_read(tmp_path: Path) -> None:
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).touch()
    table = (
        "[[sources]]\nname = 'm'\nkind = 'mqtt'\nhost = 'broker.example.org'\nport = 8884\nprotocol = '3.1.1'\n"
        f"tls = true\nca_file = '{tmp_path}/ca.pem'\nclient_certificate = '{tmp_path}/cert.pem'\n"
        f"client_key = '{tmp_path}/key.pem'\n"
        "username = 'u'\npassword = { env = 'PASSWORD' }\nclient_id = 'c'\nkeepalive_s = 30\nsession_expiry_s = 60\n"
        "topics = ['syncd/+/+/metrics', '$share/gateways/syncd/#']\n"
    )
    [source] = read(table).message_sources
    assert source == MqttSourceSettings(
        name="m",
        broker=MqttBroker(
            host="broker.example.org",
            port=8884,
            protocol="3.1.1",
            tls=True,
            ca_file=tmp_path / "ca.pem",
            client_certificate=tmp_path / "cert.pem",
            client_key=tmp_path / "key.pem",
            username="u",
            password=secret("pa55"),
            client_id="c",
            keepalive_s=30,
        ),
        topics=("syncd/+/+/metrics", "$share/gateways/syncd/#"),
        session_expiry_s=60,
    )


def test_an_mqtt_source_has_the_documented_defaults() -> None:
    [source] = read(MQTT.format(table="sources") + "topics = ['a']\n").message_sources
    assert source == MqttSourceSettings(name="m", broker=MqttBroker(host="127.0.0.1"), topics=("a",))
    [encrypted] = read(MQTT.format(table="sources") + "topics = ['a']\ntls = true\n").message_sources
    assert isinstance(encrypted, MqttSourceSettings)
    assert encrypted.broker.port == 8883


def test_sinks_are_read() -> None:
    tables = (
        BUS.format(table="sinks")
        + "connection_string = { env = 'BUS' }\ntopic = 'out'\ntypes = ['run.*']\nexperiments = ['churn*']\n"
        + MQTT.format(table="sinks")
        + "topic = 'events/{type}'\n"
    )
    assert read(tables).sinks == (
        ServiceBusSinkSettings(
            name="bus",
            types=("run.*",),
            experiments=("churn*",),
            entity=ServiceBusEntity(connection_string=secret(CONNECTION), topic="out"),
        ),
        MqttSinkSettings(name="m", broker=MqttBroker(host="127.0.0.1"), topic="events/{type}"),
    )


def test_a_password_over_plain_tcp_is_warned_of() -> None:
    table = (
        "[[sources]]\nname='m'\nkind='mqtt'\nhost='b.example.org'\nusername='u'\npassword={env='PASSWORD'}\n"
        "topics=['a']\n"
    )
    [warning] = read(table).warnings
    assert "sources[0].host: the password goes over plain TCP" in warning


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("keys", "line", "key", "message", "hint"),
    [
        ("queue = 'in'", 0, "connection_string", "found neither", ""),
        (
            "connection_string = {env='BUS'}\nfully_qualified_namespace = 'n'\nqueue = 'in'",
            3,
            "connection_string",
            "found both",
            "",
        ),
        (
            "connection_string = {env='PASSWORD'}\nqueue = 'in'",
            3,
            "connection_string",
            "no connection string",
            "Endpoint=sb://",
        ),
        ("fully_qualified_namespace = 'sb://n'\nqueue = 'in'", 3, "fully_qualified_namespace", "expected a host", ""),
        ("connection_string = {env='BUS'}\nqueue = 'q'\ncredential = 'azure-cli'", 5, "credential", "namespace", ""),
        ("connection_string = {env='BUS'}", 0, "queue", 'either "queue" or "topic", found neither', ""),
        ("connection_string = {env='BUS'}\nqueue = 'q'\ntopic = 't'\nsubscription = 's'", 4, "queue", "found both", ""),
        (
            "connection_string = {env='BUS'}\ntopic = 't'",
            4,
            "topic",
            "received from a subscription",
            "add subscription",
        ),
        ("connection_string = {env='BUS'}\nqueue = 'q'\nsubscription = 's'", 5, "subscription", "without a topic", ""),
        (
            "connection_string = {env='BUS'}\nqueue = 'q'\nmax_session = 3",
            5,
            "max_session",
            "unknown key",
            '"max_sessions"',
        ),
        ("connection_string = {env='BUS'}\nqueue = 'q'\nmax_sessions = 0", 5, "max_sessions", "at least 1", ""),
    ],
)
def test_a_mistake_in_a_service_bus_source_is_named(keys: str, line: int, key: str, message: str, hint: str) -> None:
    problem = only_problem(BUS.format(table="sources") + keys)
    assert (problem.line, problem.key) == (FIRST_LINE + line, f"sources[0].{key}")
    assert message in problem.message
    assert hint in problem.hint


def test_a_sink_sends_to_a_topic_without_a_subscription() -> None:
    keys = "connection_string = {env='BUS'}\ntopic = 't'\nsubscription = 's'"
    assert "unknown key of a sink" in only_problem(BUS.format(table="sinks") + keys).message


@pytest.mark.parametrize(
    ("keys", "line", "key", "message", "hint"),
    [
        ("", 0, "", 'the key "topics"', ""),
        ("topics = []", 4, ".topics", "at least one", ""),
        ("topics = ['a', 'b/#/c']", 4, ".topics[1]", "only be the last level", ""),
        ("topics = ['a+']", 4, ".topics[0]", "a whole level", ""),
        ("topics = ['$share/g']", 4, ".topics[0]", "$share/GROUP/FILTER", ""),
        ("topics = ['a']\nprotocol = '5.0'", 5, ".protocol", "found '5.0'", '"5"'),
        ("topics = ['a']\nport = 70000", 5, ".port", "at most 65535", ""),
        ("topics = ['a']\nca_file = '/no/such'", 5, ".ca_file", "with TLS only", "tls = true"),
        ("topics = ['a']\ntls = true\nca_file = '/no/such'", 6, ".ca_file", "no such file", ""),
        ("topics = ['a']\npassword = {env='PASSWORD'}", 5, ".password", "without a username", "add username"),
        ("topics = ['a']\nuser = 'u'", 5, ".user", "unknown key", '"username"'),
    ],
)
def test_a_mistake_in_an_mqtt_source_is_named(keys: str, line: int, key: str, message: str, hint: str) -> None:
    problem = only_problem(MQTT.format(table="sources") + keys)
    assert (problem.line, problem.key) == (FIRST_LINE + line, f"sources[0]{key}")
    assert message in problem.message
    assert hint in problem.hint


@pytest.mark.parametrize("host", ["mqtt://127.0.0.1", "127.0.0.1:1883", "broker/x"])
def test_a_host_is_no_url(host: str) -> None:
    problem = only_problem(MQTT.format(table="sources").replace("127.0.0.1", host) + "topics = ['a']")
    assert (problem.key, problem.hint) == ("sources[0].host", "see port and tls")
    read(MQTT.format(table="sources").replace("127.0.0.1", "::1") + "topics = ['a']")


def test_a_clients_certificate_needs_its_key(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").touch()
    keys = f"topics = ['a']\ntls = true\nclient_certificate = '{tmp_path}/cert.pem'"
    assert only_problem(MQTT.format(table="sources") + keys).hint == "add client_key"


@pytest.mark.parametrize("topic", ["events/+", "events/#", "events/{typ}", "events/{type"])
def test_a_topic_that_cannot_be_sent_to_is_named(topic: str) -> None:
    problem = only_problem(MQTT.format(table="sinks") + f"topic = '{topic}'")
    assert problem.key == "sinks[0].topic"
    assert "{type} and {run}" in problem.hint


def test_a_type_is_written_without_its_prefix() -> None:
    problem = only_problem(MQTT.format(table="sinks") + "types = ['run.*', 'dev.syncd.run.finished']")
    assert (problem.key, problem.hint) == ("sinks[0].types[1]", '"run.finished"')


def test_a_kind_of_sink_that_is_not_there_is_named() -> None:
    problem = only_problem("[[sinks]]\nname = 'x'\nkind = 'servicebus'")
    assert problem.key == "sinks[0].kind"
    assert "unknown kind of sink" in problem.message
    assert "service-bus" in problem.hint


def test_names_of_sinks_are_unique() -> None:
    table = MQTT.format(table="sinks")
    assert "already used" in only_problem(table + table).message


RELAY = "[[destinations]]\nname = 'up'\nkind = 'relay'\n"


@pytest.mark.parametrize(
    ("written", "key", "message"),
    [
        ("queue = 'q'\n", "via", "a relay goes by a broker"),
        ("via = 'mqtt'\nhost = 'h'\nuri = 'http://h'\n", "uri", "a relay has no uri"),
        ("via = 'mqtt'\nhost = 'h'\ntopic = 'a/#'\n", "topic", "expected a topic without wildcards"),
        ("via = 'mqtt'\nhost = 'h'\nmax_message_bytes = '1KiB'\n", "max_message_bytes", "expected at least 16KiB"),
    ],
)
def test_a_relay_that_is_not_as_expected_is_refused(written: str, key: str, message: str) -> None:
    problem = only_problem(RELAY + written)
    assert problem.key == f"destinations[1].{key}"
    assert message in problem.message


SOURCES = (
    BUS.format(table="sources") + "connection_string = { env = 'BUS' }\nqueue = 'q'\n",
    MQTT.format(table="sources"),
    "[[sources]]\nname = 'h'\nkind = 'webhook'\ntoken = { env = 'BUS' }\n",
)


def test_messages_of_another_syncd_are_taken_where_that_is_wanted() -> None:
    bus, devices, _ = SOURCES
    relay = "relay = true\n"
    found = read(bus + relay + "on_delete = 'delete'\n" + devices + "topics = ['syncd/relay/+']\n" + relay)
    assert [(one.relay, one.on_delete) for one in found.message_sources] == [(True, "delete"), (True, "keep")]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (SOURCES[1] + "topics = ['$share/g/syncd/relay/+']\nrelay = true\n", "relay = true needs topics of its own"),
        (SOURCES[1] + "topics = ['a']\non_delete = 'delete'\n", "only another syncd says that a run was deleted"),
        (SOURCES[2] + "relay = true\n[http]\n", "messages of another syncd are not taken by HTTP"),
    ],
)
def test_what_cannot_be_relayed_is_refused_with_the_reason(table: str, message: str) -> None:
    assert message in only_problem(table).message


@pytest.mark.parametrize(
    ("host", "authority"),
    [
        ("ns.servicebus.windows.net", "https://login.microsoftonline.com"),
        ("NS.servicebus.usgovcloudapi.net:5671", "https://login.microsoftonline.us"),
        ("ns.servicebus.chinacloudapi.cn", "https://login.chinacloudapi.cn"),
        ("topic.region-1.eventgrid.azure.net", "https://login.microsoftonline.com"),
        ("topic.region-1.eventgrid.azure.us", "https://login.microsoftonline.us"),
    ],
)
def test_one_signs_in_at_the_cloud_of_the_namespace(host: str, authority: str) -> None:
    entity = ServiceBusEntity(fully_qualified_namespace=host, sign_in=AzureCli(), queue="q")
    credential = service_bus_address(entity).credential
    assert isinstance(credential, Credentials)
    assert credential._authority_host == authority
