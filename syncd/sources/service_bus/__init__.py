"""The messages of a Service Bus queue or subscription."""

from syncd.sources.service_bus.returning import ServiceBusReturn
from syncd.sources.service_bus.source import ServiceBusSource

__all__ = ["ServiceBusReturn", "ServiceBusSource"]
