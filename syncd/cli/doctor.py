"""``syncd doctor``: say how the machine is, and what would hinder syncd on it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from syncd.cli.asking import counted
from syncd.cli.exit_codes import ExitCode
from syncd.cli.machine import Finding, examine
from syncd.cli.report import print_json
from syncd.configuration import Configuration, DaemonSettings, find_file, load
from syncd.errors import ConfigError

_MARKS = {"ok": "ok     ", "warning": "WARNING", "problem": "PROBLEM", "unknown": "unknown"}


def execute(arguments: argparse.Namespace) -> int:
    """Run the command. It needs no configuration; one that is wrong is a finding and 78, any other problem is 1."""
    configuration, finding = _configuration_if_any(arguments.config)
    findings = [finding, *examine(configuration)]
    problems = sum(one.state == "problem" for one in findings)
    if arguments.json:
        print_json("doctor", {"findings": findings, "ok": not problems})
    else:
        _print_lines(findings)
        print(f"{counted(problems, 'problem')} found" if problems else "no problem found")
    if finding.state == "problem":
        return ExitCode.CONFIGURATION
    return ExitCode.UNEXPECTED if problems else ExitCode.DONE


def _configuration_if_any(option: str | None) -> tuple[Configuration, Finding]:
    nothing = Configuration(daemon=DaemonSettings(), sources=(), destinations=())
    try:
        file = find_file(option)
    except ConfigError as error:
        named = option or os.environ.get("SYNCD_CONFIG")
        return nothing, Finding("configuration", "problem" if named else "unknown", named or "none", str(error))
    try:
        configuration = load(file)
    except ConfigError as error:
        return nothing, Finding("configuration", "problem", str(file), str(error))
    return configuration, Finding("configuration", "ok", str(configuration.file))


def _print_lines(findings: Sequence[Finding]) -> None:
    for finding in findings:
        print(f"{_MARKS[finding.state]}  {finding.name}: {finding.value}")
        for line in finding.advice.splitlines():
            print(f"         → {line}")
