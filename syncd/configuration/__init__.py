"""The configuration: values (``model``), read from a file (``loading``) or from the command line (``arguments``)."""

from syncd.configuration.arguments import destination_of_argument, names_of_arguments, source_of_argument
from syncd.configuration.broker_settings import (
    MqttBroker,
    MqttSinkSettings,
    MqttSourceSettings,
    ServiceBusEntity,
    ServiceBusSinkSettings,
    ServiceBusSourceSettings,
)
from syncd.configuration.loading import find_file, load, load_daemon, parse
from syncd.configuration.message_settings import MessageOptions, WebhookSettings
from syncd.configuration.model import (
    Configuration,
    DaemonSettings,
    DestinationSettings,
    HttpSettings,
    MessageSourceSettings,
    MlflowDbSettings,
    MlrunsSettings,
    SinkSettings,
    SourceSettings,
    WorkspaceSettings,
)
from syncd.configuration.reading import InvalidConfiguration, Problem
from syncd.configuration.relay_settings import RelaySettings
from syncd.configuration.secret import Secret
from syncd.configuration.sink_settings import EventGridSinkSettings, WebhookSinkSettings

__all__ = [
    "Configuration",
    "DaemonSettings",
    "DestinationSettings",
    "EventGridSinkSettings",
    "HttpSettings",
    "InvalidConfiguration",
    "MessageOptions",
    "MessageSourceSettings",
    "MlflowDbSettings",
    "MlrunsSettings",
    "MqttBroker",
    "MqttSinkSettings",
    "MqttSourceSettings",
    "Problem",
    "RelaySettings",
    "Secret",
    "ServiceBusEntity",
    "ServiceBusSinkSettings",
    "ServiceBusSourceSettings",
    "SinkSettings",
    "SourceSettings",
    "WebhookSettings",
    "WebhookSinkSettings",
    "WorkspaceSettings",
    "destination_of_argument",
    "find_file",
    "load",
    "load_daemon",
    "names_of_arguments",
    "parse",
    "source_of_argument",
]
