"""Named failpoints: run ``syncd`` and kill it with SIGKILL exactly before or after a step.

    python -m tests.faults.failpoints NAME[:NTH] -- sync STORE --to URI …

The production code knows nothing of this: the module wraps methods in its own process and then runs the command line.
A step must not be one that was taken as a value before: the journal's are looked up when they are called.
``NAME`` is ``<step>:before`` or ``<step>:after``; at the ``NTH`` time it is reached (1 by default) the process ends as
by ``kill -9``. ``python -m tests.faults.failpoints --list`` prints all names.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import azure.servicebus.aio  # noqa: F401 - taken along by the fork server, as are these:

import syncd.cli.run
import syncd.cli.sync
import syncd.runtime.message_assembly
import syncd.runtime.relay_assembly  # noqa: F401
from syncd.cli.main import main as syncd_main
from syncd.core.requests import LogBatch

# step -> "module:Class.method" or "module:function". Every one is killed before and after.
STEPS = {
    "journal.register_source": "syncd.journal.participants:register_source",
    "journal.register_destinations": "syncd.journal.participants:register_destinations",
    "journal.commit": "syncd.journal.committing:commit",
    "journal.commit inside": "syncd.journal.fact_intake:FactIntake.add",
    "journal.destination_up": "syncd.journal.participants:destination_up",
    "journal.bind": "syncd.journal.bindings:bind",
    "journal.mark_checked": "syncd.journal.bindings:mark_checked",
    "overflow.keep": "syncd.journal.overflow:keep",
    "overflow.freeze_document": "syncd.journal.overflow:freeze_document",
    "overflow.arrived": "syncd.journal.overflow:arrived",
    "journal.settle": "syncd.journal.deliveries:settle",
    "journal.close": "syncd.journal.journal:Journal.close",
    "source.poll": "syncd.sources.mlflow_db.source:MlflowDbSource.poll",
    "destination.probe": "syncd.destinations.mlflow_server:MlflowServer.probe",
    "destination.ensure_experiment": "syncd.destinations.mlflow_server:MlflowServer.ensure_experiment",
    "destination.find": "syncd.destinations.mlflow_server:MlflowServer.find",
    "destination.create": "syncd.destinations.mlflow_server:MlflowServer.create",
    "destination.upload": "syncd.destinations.mlflow_server:MlflowServer.upload",
    "artifact.pieces": "syncd.destinations.local_upload:LocalUpload.pieces",
    "rest.answer head": "syncd.rest.client:RestClient._sent",
}
# Only on a store that appends.
APPENDING_STEPS = {"journal.mark_attempted": "syncd.journal.deliveries:mark_attempted"}
# Only in a daemon that has a sink.
EVENT_STEPS = {
    "outbox.register_sinks": "syncd.journal.outbox:register_sinks",
    "outbox.move_sink": "syncd.journal.outbox:move_sink",
    "sink.send": "syncd.sinks.webhook:WebhookSink.send",
}
# Only with a workspace.
WORKSPACE_STEPS = {
    "overflow.freeze_segment": "syncd.journal.overflow:freeze_segment",
    "workspace.create": "syncd.destinations.azureml.workspace:AzuremlWorkspace.create",
    "workspace.send": "syncd.destinations.azureml.workspace:AzuremlWorkspace.send",
    "workspace.upload": "syncd.destinations.azureml.workspace:AzuremlWorkspace.upload",
}
# Only in a daemon that relays.
RELAY_STEPS = {
    "relay.probe": "syncd.destinations.relay.service_bus:ServiceBusRelay.probe",
    "relay.cut": "syncd.runtime.relay_lane:RelayLane._cut",
    "relay.send": "syncd.destinations.relay.service_bus:ServiceBusRelay.send",
    "relay.file": "syncd.runtime.relay_lane:RelayedFiles.send",
    "relay.heads": "syncd.runtime.relay_lane:RelayLane._send_heads",
}
# Only in a daemon that takes messages, some only where they are another syncd's.
GATEWAY_STEPS = {
    "bus.receive": "syncd.sources.service_bus.source:ServiceBusSource.receive",
    "bus.complete": "syncd.sources.service_bus.source:ServiceBusSource.complete",
    "mqtt.complete": "syncd.sources.mqtt:MqttSource.complete",
    "inbox.take": "syncd.journal.inbox:Inbox.take",
    "inbox.take inside": "syncd.journal.relayed:RelayStep.flush",
    "partials.write": "syncd.journal.partials:Partials._write",
    "partials.keep": "syncd.journal.partials:Partials.keep",
    "partials.ended": "syncd.journal.partials:Partials._ended",
    "partials.given_back": "syncd.journal.partials:Partials.given_back",
    "return.send": "syncd.sources.service_bus.returning:ServiceBusReturn.send",
    "spool.tidy": "syncd.journal.spool:Spool.tidy",
}
# Steps of ``MlflowServer.send`` by what is sent.
REQUESTS = (
    "LogBatch of values",
    "LogBatch of points",
    "LogInputs",
    "LogOutputs",
    "UpdateRun",
    "SetExperimentTags",
    "SetModelTags",
    "FinalizeModel",
)
SEND = "syncd.destinations.mlflow_server:MlflowServer.send"
EVERY_STEP = {**STEPS, **APPENDING_STEPS, **EVENT_STEPS, **WORKSPACE_STEPS, **RELAY_STEPS, **GATEWAY_STEPS}


def names(*, appending: bool = False) -> list[str]:
    """Return every failpoint."""
    steps = [*STEPS, *(f"send {request}" for request in REQUESTS), *(APPENDING_STEPS if appending else ())]
    return [f"{step}:{when}" for step in steps for when in ("before", "after")]


class Failpoint:
    """Kills the process at its ``nth`` hit."""

    def __init__(self, name: str) -> None:
        self.step, self.when, *nth = name.split(":")
        self._left = int(nth[0]) if nth else 1

    def reach(self, when: str) -> None:
        if when == self.when:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        if self.step.startswith("send "):
            wanted = self.step.removeprefix("send ")
            _wrap(SEND, self, lambda arguments: _request_name(arguments[1]) == wanted)
        else:
            _wrap(EVERY_STEP[self.step], self, lambda arguments: True)


def _request_name(request: object) -> str:
    name = type(request).__name__
    if isinstance(request, LogBatch):
        return f"{name} of points" if request.lines else f"{name} of values"
    return name


def _wrap(place: str, failpoint: Failpoint, applies: Callable[[tuple[Any, ...]], bool]) -> None:
    module_name, _, path = place.partition(":")
    holder: Any = importlib.import_module(module_name)
    *holders, name = path.split(".")
    for step in holders:
        holder = getattr(holder, step)
    setattr(holder, name, _wrapped(getattr(holder, name), failpoint, applies))


def _wrapped(method: Any, failpoint: Failpoint, applies: Callable[[tuple[Any, ...]], bool]) -> Any:
    """Return the method with the failpoint around it; of a generator, around each item that it hands out."""

    @functools.wraps(method)
    def plain(*arguments: Any, **options: Any) -> Any:
        if not applies(arguments):
            return method(*arguments, **options)
        failpoint.reach("before")
        result = method(*arguments, **options)
        failpoint.reach("after")
        return result

    @functools.wraps(method)
    async def awaited(*arguments: Any, **options: Any) -> Any:
        if not applies(arguments):
            return await method(*arguments, **options)
        failpoint.reach("before")
        result = await method(*arguments, **options)
        failpoint.reach("after")
        return result

    @functools.wraps(method)
    def generated(*arguments: Any, **options: Any) -> Any:
        for item in method(*arguments, **options):
            failpoint.reach("before")
            yield item
            failpoint.reach("after")  # the reading has been committed, or will be with the next ones

    @functools.wraps(method)
    async def streamed(*arguments: Any, **options: Any) -> Any:
        async for item in method(*arguments, **options):
            failpoint.reach("before")
            yield item
            failpoint.reach("after")

    if inspect.isasyncgenfunction(method):
        return streamed
    if inspect.isgeneratorfunction(method):
        return generated
    return awaited if inspect.iscoroutinefunction(method) else plain


def main(argv: list[str]) -> None:
    """Install the failpoint and run the command."""
    if argv == ["--list"]:
        print("\n".join(names(appending=True)))
        return
    name, separator, *command = argv
    assert separator == "--"
    run(name, command)


def run(name: str, command: list[str]) -> NoReturn:
    """Run a command of syncd in this process, with a failpoint or ("") none."""
    if name:
        Failpoint(name).install()
    sys.exit(syncd_main(command))


if __name__ == "__main__":
    main(sys.argv[1:])
