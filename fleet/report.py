"""The facts of one roll-out as Markdown, for the review afterwards. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fleet.errors import printable
from fleet.journal import HostRow, Rollout, StepRow


def markdown(
    rollout: Rollout,
    hosts: Sequence[HostRow],
    steps: Sequence[StepRow],
    name_of: Callable[[str | None], str],
) -> str:
    """Plan, who, each host's steps in order with times and outputs, what failed and went back."""
    lines = [
        f"# {rollout.kind.capitalize()} {rollout.id}: {_text(rollout.image_name)}",
        "",
        f"* Result: **{rollout.result or rollout.state}**"
        + (f", because {_text(rollout.error)}" if rollout.error else ""),
        f"* Image: `{rollout.image or 'each host its previous one'}`",
        f"* By: {_text(rollout.who)} on {_text(rollout.machine)}",
        f"* Began: {rollout.started}; ended: {rollout.finished or 'not yet'}",
        f"* Reason: {_text(rollout.reason) or '(none given)'}"
        + (f"; ticket: {_text(rollout.ticket)}" if rollout.ticket else ""),
    ]
    if rollout.plan_digest:
        lines.append(f"* Plan: `{rollout.plan_digest}`")
    lines += ["", *_counts(hosts), ""]
    lines += _plan(rollout, name_of)
    lines += ["## Hosts", "", "| host | wave | state | image | sent | seconds | error |",
              "| --- | ---: | --- | --- | ---: | ---: | --- |"]  # fmt: skip
    for row in hosts:
        cells = [row.host, str(row.wave + 1), row.state, name_of(row.image), str(row.bytes_sent),
                 f"{row.seconds:.1f}", row.error]  # fmt: skip
        lines.append("| " + " | ".join(_text(cell) for cell in cells) + " |")
    lines += ["", "## Steps", ""]
    by_host: dict[str, list[StepRow]] = {}
    for step in steps:
        by_host.setdefault(step.host, []).append(step)
    for row in hosts:
        if row.host in by_host:
            lines += _host(row, by_host[row.host])
    return "\n".join(lines).rstrip() + "\n"


def _counts(hosts: Sequence[HostRow]) -> list[str]:
    counts: dict[str, int] = {}
    for row in hosts:
        counts[row.state] = counts.get(row.state, 0) + 1
    told = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    sent = sum(row.bytes_sent for row in hosts)
    return [f"{len(hosts)} hosts: {told}. {sent} bytes of packs and manifests were sent."]


def _plan(rollout: Rollout, name_of: Callable[[str | None], str]) -> list[str]:
    settings = rollout.plan.get("settings", {})
    waves = rollout.plan.get("waves", [])
    if not waves:
        return []
    lines = ["## Plan", ""]
    for change in rollout.plan.get("changes", []):
        way = f"{name_of(change['from'])} → {name_of(change['to'])}"
        lines += [f"{_text(way)} on {_names(change['hosts'])}:", ""]
        lines += [f"* {_text(line)}" for line in change["lines"]]
        lines.append("")
    for at, wave in enumerate(waves, 1):
        lines.append(f"{at}. `{_code(wave['rule'])}`: {_names(wave['hosts'])}")
    lines.append("")
    for title, key in (("max-failures", "max_failures"), ("max-unreachable", "max_unreachable"),
                       ("on-halt", "on_halt"), ("soak (seconds)", "soak")):  # fmt: skip
        lines.append(f"* {title}: {settings.get(key)}")
    lines += [f"* after the switch: `{_code(item)}`" for item in settings.get("after_switch", [])]
    lines += [f"* health: `{_code(item[0])}`" for item in settings.get("health", [])]
    return [*lines, ""]


def _names(hosts: Sequence[str]) -> str:
    more = f" and {len(hosts) - 20} more" if len(hosts) > 20 else ""
    return _text(", ".join(hosts[:20])) + more


def _host(row: HostRow, steps: Sequence[StepRow]) -> list[str]:
    lines = [f"### {_text(row.host)}: {row.state}", ""]
    if row.error:
        lines += [f"{_text(row.error)}", ""]
    lines += ["| step | began | seconds | outcome |", "| --- | --- | ---: | --- |"]
    for step in steps:
        lines.append(
            f"| {_text(step.step)} | {step.started} | {step.seconds:.2f} | {_text(step.outcome)} |"
        )
    lines.append("")
    for step in steps:
        if step.output.strip():
            lines += [f"Output of {_text(step.step)}:", ""]
            lines += [f"    {printable(line, 400)}" for line in step.output.splitlines()]
            lines.append("")
    return lines


def _text(text: str) -> str:
    """Text from anywhere as plain text of a Markdown line or table cell."""
    shown = printable(str(text), 500)
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in shown)


def _code(text: str) -> str:
    return printable(str(text), 500).replace("`", "'")
