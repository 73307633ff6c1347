"""docs/operating.md and docs/metrics.md name what there is: alert rules, metrics, labels, commands, sections.

Not for: what the metrics count (integrations/test_prometheus.py), or whether PromQL is right beyond its names.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from prometheus_client import CollectorRegistry

from syncpoint.cli.app import app
from syncpoint.ids import XA_FORMAT_ID, Attempt, BranchNumber, Guid, Identifier, TransactionId
from syncpoint.integrations import prometheus
from syncpoint.manager.observer import EndedAs, Phase

DOCS = Path(__file__).parent.parent / "docs"
OPERATING = (DOCS / "operating.md").read_text(encoding="utf-8")
METRICS = (DOCS / "metrics.md").read_text(encoding="utf-8")
KNOWN_VALUES = {
    "status": set(prometheus.STATUSES),
    "outcome": {*EndedAs, "aborted_retryable"},
    "phase": set(Phase),
    "result": {"ok", "failed"},
}


def exported() -> dict[str, tuple[set[str], set[str]]]:
    """Every metric: its name as it stands in the documents, to the names of its samples and of its labels."""
    registry = CollectorRegistry()
    prometheus.PrometheusObserver(registry)
    found = {}
    for collector in vars(prometheus._Families.of(registry)).values():
        for family in collector.describe() if hasattr(collector, "describe") else []:
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = set(collector._labelnames) | ({"le"} if family.type == "histogram" else set())
            found[name] = ({family.name + suffix for suffix in suffixes}, labels)
    return found


def rules() -> list[dict[str, Any]]:
    (text,) = re.findall(r"```yaml\n(.*?)```", OPERATING, re.DOTALL)
    (group,) = yaml.safe_load(text)["groups"]
    return list(group["rules"])


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_rule_asks_for_what_is_exported(rule: dict[str, Any]) -> None:
    assert (
        {"alert", "expr", "labels", "annotations"} <= rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    )
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
    assert f"\n### {rule['alert']}\n" in OPERATING, "it has no section that says what to do"
    samples = {sample: labels for names, labels in exported().values() for sample in names}
    expression = rule["expr"]
    for open_, close in ("()", "{}", "[]"):
        assert expression.count(open_) == expression.count(close)
    used = re.findall(r"(syncpoint_\w+)(\{[^}]*\})?", expression)
    assert used
    for name, selector in used:
        assert name in samples
        for label, value in re.findall(r'(\w+)=~?"([^"]*)"', selector):
            assert label in samples[name]
            assert any(re.fullmatch(value, known) for known in KNOWN_VALUES[label])
    for by in re.findall(r"by \(([^)]*)\)", expression):
        labels = {"instance"}.union(*(samples[name] for name, _ in used))
        assert set(by.split(", ")) <= labels


def test_every_section_has_its_rule() -> None:
    sections = re.findall(r"^### (Syncpoint\w+)$", OPERATING, re.MULTILINE)
    assert sections == [rule["alert"] for rule in rules()]


@pytest.mark.parametrize("text", [OPERATING, METRICS], ids=["operating.md", "metrics.md"])
def test_every_metric_that_is_named_exists(text: str) -> None:
    known = set(exported()).union(*(samples for samples, _ in exported().values()))
    assert sorted(set(re.findall(r"\bsyncpoint_[a-z][a-z_]*\b", text)) - known) == []


def test_every_metric_is_documented_with_its_labels() -> None:
    rows = re.findall(r"^\| `(syncpoint_\w+)` \| \w+ \| (.*?) \|", METRICS, re.MULTILINE)
    documented = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    assert documented == {name: labels - {"manager", "le"} for name, (_, labels) in exported().items()}


def test_every_command_and_option_exists() -> None:
    root = typer.main.get_command(app)
    spans = re.findall(r"`(syncpoint\s[^`]+)`", OPERATING)
    spans += re.findall(r"^(syncpoint .*?)(?: #.*)?$", OPERATING, re.MULTILINE)
    assert len(spans) > 20
    for span in spans:
        command: Any = root
        words = span.split(" > ")[0].split()[1:]
        while hasattr(command, "commands") and words:
            name = words.pop(0)
            assert name in command.commands, span
            command = command.commands[name]
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= options, span


def test_links_lead_somewhere() -> None:
    for text in (OPERATING, METRICS):
        for file, anchor in re.findall(r"\]\((?!https:)([\w-]*\.md)?(?:#([\w-]+))?\)", text):
            target = (DOCS / file).read_text(encoding="utf-8") if file else text
            headings = re.findall(r"^#+ (.*)$", target, re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert not anchor or anchor in anchors, f"{file}#{anchor}"


def test_an_id_is_found_in_what_the_database_lists() -> None:
    transaction = TransactionId(bytes(range(16)))
    identifier = Identifier(Guid(b"c" * 16), transaction, Attempt.from_int(1 << 32 | 7), BranchNumber(1))
    assert "substr(gid, 45, 32)" in OPERATING
    assert identifier.to_gid()[44:76] == str(transaction)
    gtrid, _ = identifier.to_xid()
    assert gtrid.hex()[-32:] == str(transaction)
    assert f"format id {XA_FORMAT_ID}" in OPERATING
