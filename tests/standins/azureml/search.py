"""MLflow's search grammar, as much of it as clients of a workspace use: comparisons joined by AND, and an order."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from tests.standins.azureml.refusals import bad_value
from tests.standins.azureml.runs import Run

Value = str | float | None
View = Mapping[str, Callable[[str], Value]]

_CLAUSE: Final = re.compile(
    r"""\s*(?:(?P<entity>[A-Za-z]+)\.)?(?P<key>`[^`]+`|"[^"]+"|[\w.]+)
        \s*(?P<operator>!=|<=|>=|=|<|>|(?:NOT\s+)?I?LIKE|IN)
        \s*(?P<value>'[^']*'|"[^"]*"|\([^)]*\)|[-+.\w]+)
        \s*(?P<more>AND\b|$)""",
    re.IGNORECASE | re.VERBOSE,
)
_ENTITIES: Final = {
    "": "attributes",
    **dict.fromkeys(("attribute", "attributes", "attr", "run"), "attributes"),
    **dict.fromkeys(("tag", "tags"), "tags"),
    **dict.fromkeys(("param", "params", "parameter", "parameters"), "params"),
    **dict.fromkeys(("metric", "metrics"), "metrics"),
}
_COMPARE: Final[dict[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Clause:
    """One comparison; ``operator`` in capitals, ``value`` without its quotes."""

    entity: str
    key: str
    operator: str
    value: str

    def holds(self, view: View) -> bool:
        """Return whether it holds; what is absent fulfils nothing."""
        found = view.get(self.entity, _nothing)(self.key)
        if found is None:
            return False
        if isinstance(found, float) or self.operator in _COMPARE:
            return self._holds_for_number(float(found))
        return self._holds_for_text(found)

    def _holds_for_number(self, found: float) -> bool:
        try:
            wanted = float(self.value)
        except ValueError as exc:
            raise bad_value(f"{self.value!r} is no number") from exc
        if self.operator in _COMPARE:
            return _COMPARE[self.operator](found, wanted)
        return (found == wanted) == (self.operator == "=")

    def _holds_for_text(self, found: str) -> bool:
        if self.operator in ("=", "!="):
            return (found == self.value) == (self.operator == "=")
        if self.operator == "IN":
            return found in [item.strip().strip("'\"") for item in self.value.strip("()").split(",")]
        flags = re.DOTALL | (re.IGNORECASE if "ILIKE" in self.operator else 0)
        pattern = re.escape(self.value).replace("%", ".*").replace("_", ".")
        return (re.fullmatch(pattern, found, flags) is not None) != self.operator.startswith("NOT")


def parse(text: str) -> list[Clause]:
    """Return the comparisons of a filter; Refused when it is none."""
    clauses: list[Clause] = []
    at = 0
    while at < len(text) and text[at:].strip():
        found = _CLAUSE.match(text, at)
        entity = _ENTITIES.get((found["entity"] or "").lower()) if found else None
        if found is None or entity is None:
            raise bad_value(f"Invalid clause(s) in filter string: {text[at:]!r}")
        verb = " ".join(found["operator"].upper().split())
        clauses.append(Clause(entity, _bare(found["key"], '`"'), verb, _bare(found["value"], "'\"")))
        at = found.end()
    return clauses


def matching(runs: Iterable[Run], text: str) -> list[Run]:
    """Return the runs a filter keeps, in their order."""
    clauses = parse(text)
    return [run for run in runs if all(clause.holds(view_of(run)) for clause in clauses)]


def ordered(runs: list[Run], order_by: list[str]) -> list[Run]:
    """Return the runs in the asked order, the newest first where nothing is asked; absent values come last."""
    runs = sorted(runs, key=lambda run: (-run.started_at_ms, run.identity))
    for wish in reversed(order_by):
        expression, _, direction = wish.strip().rpartition(" ")
        if direction.upper() not in ("ASC", "DESC"):
            expression, direction = wish.strip(), "ASC"
        entity, key = _column(expression)
        values = {run.identity: view_of(run).get(entity, _nothing)(key) for run in runs}
        there = [run for run in runs if values[run.identity] is not None]
        absent = [run for run in runs if values[run.identity] is None]
        there.sort(key=lambda run: _sort_key(values[run.identity]), reverse=direction.upper() == "DESC")
        runs = there + absent
    return runs


def view_of(run: Run) -> View:
    """Return how a run answers for its entities."""

    def metric(key: str) -> Value:
        return run.latest[key].value if key in run.latest else None

    def attribute(key: str) -> Value:
        numbers = {"start_time": run.started_at_ms, "end_time": run.ended_at_ms, "created": run.started_at_ms}
        if key.lower() in numbers:
            number = numbers[key.lower()]
            return None if number is None else float(number)
        texts = {"run_id": run.identity, "run_name": run.name, "status": run.status, "user_id": run.user}
        return texts.get(key.lower().replace(" ", "_"))

    return {"tags": run.tags.get, "params": run.params.get, "metrics": metric, "attributes": attribute}


def _column(expression: str) -> tuple[str, str]:
    entity, dot, key = expression.partition(".")
    if not dot:
        return "attributes", _bare(entity, '`"')
    return _ENTITIES.get(entity.lower(), ""), _bare(key, '`"')


def _bare(text: str, quotes: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] in quotes and text[-1] == text[0] else text


def _sort_key(value: Value) -> tuple[float, str]:
    return (value, "") if isinstance(value, float) else (0.0, str(value))


def _nothing(_key: str) -> Value:
    return None
