"""Registered models and their versions: the least that a registry client needs. No I/O, no HTTP."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from tests.standins.azureml.refusals import Refused, not_there
from tests.standins.azureml.runs import Json, listed, pairs


@dataclass
class ModelVersion:
    """A version; ``source`` is where its files are, times in milliseconds."""

    name: str
    version: str
    source: str
    run_id: str
    description: str
    tags: dict[str, str]
    created_at_ms: int
    stage: str = "None"

    def as_json(self) -> Json:
        return {
            "name": self.name,
            "version": self.version,
            "source": self.source,
            "run_id": self.run_id,
            "description": self.description,
            "tags": listed(self.tags),
            "creation_timestamp": self.created_at_ms,
            "last_updated_timestamp": self.created_at_ms,
            "current_stage": self.stage,
            "status": "READY",
        }


@dataclass
class RegisteredModel:
    """A model; times in milliseconds."""

    name: str
    description: str
    tags: dict[str, str]
    created_at_ms: int
    versions: dict[str, ModelVersion] = field(default_factory=dict)

    def as_json(self) -> Json:
        return {
            "name": self.name,
            "description": self.description,
            "tags": listed(self.tags),
            "creation_timestamp": self.created_at_ms,
            "last_updated_timestamp": self.created_at_ms,
            "latest_versions": [version.as_json() for version in list(self.versions.values())[-1:]],
        }


class Registry:
    """All registered models by name."""

    def __init__(self) -> None:
        self.models: dict[str, RegisteredModel] = {}

    def create_model(self, body: Json) -> RegisteredModel:
        name = str(body.get("name", ""))
        if name in self.models:
            raise Refused(400, "RESOURCE_ALREADY_EXISTS", f"Registered Model (name={name}) already exists.")
        made = RegisteredModel(name, body.get("description", ""), pairs(body.get("tags")), _now_ms())
        self.models[name] = made
        return made

    def model(self, name: str) -> RegisteredModel:
        """Return a model; refuses an unknown one."""
        try:
            return self.models[name]
        except KeyError as exc:
            raise not_there(f"Registered Model with name={name}") from exc

    def create_version(self, body: Json) -> ModelVersion:
        model = self.model(str(body.get("name", "")))
        made = ModelVersion(
            name=model.name,
            version=str(len(model.versions) + 1),
            source=str(body.get("source", "")),
            run_id=body.get("run_id", ""),
            description=body.get("description", ""),
            tags=pairs(body.get("tags")),
            created_at_ms=_now_ms(),
        )
        model.versions[made.version] = made
        return made

    def version(self, name: str, version: str) -> ModelVersion:
        """Return a version; refuses an unknown one."""
        try:
            return self.model(name).versions[version]
        except KeyError as exc:
            raise not_there(f"Model Version (name={name}, version={version})") from exc

    def versions(self, *, name: str | None = None, run_id: str | None = None) -> list[ModelVersion]:
        """Return the versions of a model and of a run, each where given."""
        return [
            version
            for model in self.models.values()
            for version in model.versions.values()
            if (name is None or model.name == name) and (run_id is None or version.run_id == run_id)
        ]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
