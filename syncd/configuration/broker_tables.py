"""Read the [[sources]] and [[sinks]] tables of kind ``service-bus`` and ``mqtt`` (see ``tables`` for the rules)."""

from __future__ import annotations

import re
from typing import Final, get_args

from syncd.configuration.broker_settings import (
    MqttBroker,
    MqttProtocol,
    MqttSinkSettings,
    MqttSourceSettings,
    ServiceBusEntity,
    ServiceBusSinkSettings,
    ServiceBusSourceSettings,
    connection_parts,
)
from syncd.configuration.credentials import is_loopback
from syncd.configuration.message_tables import read_message_keys
from syncd.configuration.reading import Table, warn_of_written_secret
from syncd.configuration.secret import Secret
from syncd.configuration.sign_in import SIGN_IN_KEYS, read_sign_in
from syncd.configuration.sink_tables import read_sink_keys

MQTT_PORT: Final = 1883
MQTT_TLS_PORT: Final = 8883
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*(:\d{1,5})?")
_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_PLACEHOLDERS: Final = ("type", "run")
_CONNECTION_STRING: Final = "Endpoint=sb://NAMESPACE.servicebus.windows.net/;SharedAccessKeyName=…;SharedAccessKey=…"


def read_service_bus_source(table: Table) -> ServiceBusSourceSettings:
    """Return the settings of a source of kind ``service-bus``."""
    default = ServiceBusSourceSettings(name="", entity=ServiceBusEntity())
    settings = ServiceBusSourceSettings(
        **read_message_keys(table),
        entity=read_entity(table, receives=True),
        max_sessions=table.integer("max_sessions", default.max_sessions, minimum=1),
    )
    table.refuse_unknown_keys(of='a source of kind "service-bus"')
    return settings


def read_mqtt_source(table: Table) -> MqttSourceSettings:
    """Return the settings of a source of kind ``mqtt``."""
    default = MqttSourceSettings(name="", broker=MqttBroker(host=""), topics=())
    topics = table.texts("topics", required=True)
    for index, topic in enumerate(topics):
        if wrong := problem_of_topic_filter(topic):
            table.document.refuse((*table.place, "topics", index), wrong)
    settings = MqttSourceSettings(
        **read_message_keys(table),
        broker=read_broker(table),
        topics=topics,
        session_expiry_s=table.seconds("session_expiry_s", default.session_expiry_s),
    )
    if settings.relay and settings.is_shared:
        what = "relay = true needs topics of its own: a shared subscription hands the parts of one file to several"
        table.refuse("topics", what, 'for example "syncd/relay/+"')
    table.refuse_unknown_keys(of='a source of kind "mqtt"')
    return settings


def read_service_bus_sink(table: Table) -> ServiceBusSinkSettings:
    """Return the settings of a sink of kind ``service-bus``."""
    settings = ServiceBusSinkSettings(**read_sink_keys(table), entity=read_entity(table, receives=False))
    table.refuse_unknown_keys(of='a sink of kind "service-bus"')
    return settings


def read_mqtt_sink(table: Table) -> MqttSinkSettings:
    """Return the settings of a sink of kind ``mqtt``."""
    topic = table.text("topic", MqttSinkSettings(name="", broker=MqttBroker(host="")).topic)
    unknown = [found for found in _PLACEHOLDER.findall(topic) if found not in _PLACEHOLDERS]
    if unknown or re.search(r"[{}+#\0]", _PLACEHOLDER.sub("", topic)):
        table.refuse("topic", "expected a topic without wildcards", "placeholders are {type} and {run}")
    settings = MqttSinkSettings(**read_sink_keys(table), broker=read_broker(table), topic=topic)
    table.refuse_unknown_keys(of='a sink of kind "mqtt"')
    return settings


def problem_of_topic_filter(topic: str) -> str:
    """Say what is wrong with an MQTT topic filter ("": nothing), by MQTT 5.0 sections 4.7 and 4.8.2."""
    levels = topic.split("/")
    if levels[0] == "$share":
        if len(levels) < 3 or not levels[1] or re.search(r"[+#]", levels[1]):
            return "expected $share/GROUP/FILTER"
        levels = levels[2:]
    if "" in (levels[0], levels[-1]) and levels == [""]:
        return "expected a topic after $share/GROUP/"
    if "#" in levels[:-1]:
        return 'the wildcard "#" may only be the last level'
    if any(("+" in level or "#" in level) and len(level) > 1 for level in levels):
        return 'a wildcard ("+" or "#") must be a whole level'
    return ""


def read_entity(table: Table, *, receives: bool) -> ServiceBusEntity:
    """Return the queue, topic or subscription that a table names, and how to sign in there."""
    secret = table.secret("connection_string")
    warn_of_written_secret(table, "connection_string", secret)
    entity_path = _check_connection_string(table, secret) if secret is not None else ""
    namespace = table.text("fully_qualified_namespace", "")
    if namespace and not _NAMESPACE.fullmatch(namespace):
        table.refuse("fully_qualified_namespace", "expected a host", '"NAMESPACE.servicebus.windows.net"')
    if (table.has("connection_string")) == bool(namespace):
        found = "both" if namespace else "neither"
        table.refuse(
            "connection_string", f'expected either "connection_string" or "fully_qualified_namespace", found {found}'
        )
    sign_in = read_sign_in(table) if namespace else None
    if not namespace and (needless := [key for key in SIGN_IN_KEYS if table.has(key)]):
        table.refuse(needless[0], 'is used with "fully_qualified_namespace" only')
    queue, topic = table.text("queue", ""), table.text("topic", "")
    if entity_path and not (queue or topic):
        queue = entity_path
    if bool(queue) == bool(topic):
        table.refuse("queue", f'expected either "queue" or "topic", found {"both" if queue else "neither"}')
    subscription = table.text("subscription", "") if receives else ""
    if receives and bool(subscription) != bool(topic):
        key, message = (
            ("subscription", "a subscription without a topic")
            if subscription
            else ("topic", "messages are received from a subscription of it")
        )
        table.refuse(key, message, "" if subscription else 'add subscription = "…"')
    return ServiceBusEntity(
        connection_string=secret,
        fully_qualified_namespace=namespace,
        sign_in=sign_in,
        queue=queue,
        topic=topic,
        subscription=subscription,
    )


def _check_connection_string(table: Table, secret: Secret) -> str:
    """Note a problem if it is none; return its EntityPath, "" for none."""
    known = connection_parts(secret)
    signed = "sharedaccesssignature" in known or {"sharedaccesskeyname", "sharedaccesskey"} <= known.keys()
    if not known.get("endpoint", "").startswith("sb://") or not signed:
        table.refuse(
            "connection_string", "this is no connection string of Service Bus", f"expected {_CONNECTION_STRING}"
        )
    return known.get("entitypath", "")


def read_broker(table: Table) -> MqttBroker:
    """Return the MQTT broker that a table names, and how to connect to it."""
    default = MqttBroker(host="")
    tls = table.boolean("tls", default=default.tls)
    broker = MqttBroker(
        host=table.text("host"),
        port=table.integer("port", MQTT_TLS_PORT if tls else MQTT_PORT, minimum=1),
        protocol=table.choice("protocol", get_args(MqttProtocol), default.protocol),
        tls=tls,
        ca_file=table.path("ca_file") if table.has("ca_file") else None,
        client_certificate=table.path("client_certificate") if table.has("client_certificate") else None,
        client_key=table.path("client_key") if table.has("client_key") else None,
        username=table.text("username") if table.has("username") else None,
        password=table.secret("password"),
        client_id=table.text("client_id", ""),
        keepalive_s=table.integer("keepalive_s", default.keepalive_s, minimum=5),
    )
    if "/" in broker.host or broker.host.count(":") == 1:
        table.refuse("host", f"expected a name or an address alone, found {broker.host!r}", "see port and tls")
    warn_of_written_secret(table, "password", broker.password)
    _check_tls(table, broker)
    if broker.password is not None and broker.username is None:
        table.refuse("password", "a password without a username", "add username")
    if broker.username is not None and not tls and broker.host and not is_loopback(broker.host):
        table.document.warn((*table.place, "host"), "the password goes over plain TCP: anyone on the way can read it")
    if broker.port > 65535:
        table.refuse("port", f"expected a port of at most 65535, found {broker.port}")
    return broker


def _check_tls(table: Table, broker: MqttBroker) -> None:
    for key in ("ca_file", "client_certificate", "client_key"):
        path = getattr(broker, key)
        if path is not None and not broker.tls:
            table.refuse(key, "is used with TLS only", "add tls = true")
        elif path is not None and not path.is_file():
            table.refuse(key, f"there is no such file: {path}")
    if (broker.client_certificate is None) != (broker.client_key is None):
        there, missing = ("client_certificate", "client_key")
        if broker.client_certificate is None:
            there, missing = missing, there
        table.refuse(there, f"a {there} without a {missing}", f"add {missing}")
