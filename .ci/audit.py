"""Audit the installed packages against the advisories of PyPI, else of OSV: exit 1 for a vulnerable one, 0
where none is, or where nobody could be asked.

pip-audit says "No known vulnerabilities found" of packages that the service does not know, too: here those
are counted, and said. It does not see the servers that wheels carry, either (PostgreSQL, Valkey): their own
versions are held against the first ones without the holes that we know of.
"""

import json
import re
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

IGNORED: dict[str, str] = {}
"""Advisory id -> why we live with it and until when; only where no fixed release exists."""
SERVICES = ("pypi", "osv")
SOUND = {
    "valkey-server": {
        (7, 2): 11,
        (8, 0): 6,
        (8, 1): 4,
        (9, 0): 0,
    },  # CVE-2025-49844: code execution through a Lua script
    "redis-server": {(6, 2): 20, (7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2},  # the same
    "postgres": {(16, 0): 11, (18, 0): 1},  # CVE-2025-12817, CVE-2025-12818
}
"""Program -> release line -> its first release without the holes that are known of; later lines are sound."""
LOCK = Path(__file__).parent.parent / "requirements" / "dev.lock"
PATIENCE = 300  # seconds for each service

Report = dict[str, Any]


def ask(service: str) -> Report | None:
    """pip-audit's report on this environment; None where the service cannot be asked."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        command = [
            sys.executable,
            "-m",
            "pip_audit",
            "--vulnerability-service",
            service,
            "--skip-editable",
            "--format",
            "json",
            "--output",
            str(out),
        ]
        try:
            done = subprocess.run(
                [*command, "--progress-spinner", "off"], capture_output=True, text=True, timeout=PATIENCE
            )
        except subprocess.TimeoutExpired:
            return None
        if not out.exists() or not out.read_text().strip():
            sys.stdout.write(f"{service}: {(done.stderr.strip().splitlines() or ['no answer'])[-1][:300]}\n")
            return None
        found: Report = json.loads(out.read_text())
        return found


def told(report: Report) -> tuple[int, list[str]]:
    """(packages that the service knows, a line for each vulnerability that is not ignored)."""
    known = [package for package in report["dependencies"] if "skip_reason" not in package]
    lines = [
        f"{package['name']} {package['version']}: {entry['id']}, fixed in"
        f" {', '.join(entry['fix_versions']) or 'no release yet'}"
        for package in known
        for entry in package["vulns"]
        if not {entry["id"], *entry.get("aliases", [])} & IGNORED.keys()
    ]
    return len(known), lines


def hole(program: str, said: str) -> str | None:
    """What is wrong with a server that says this of its version; None for a sound one."""
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", said)
    if found is None:
        return f"{program}: says no version ({said.strip()[:80]})"
    major, minor, patch = (int(part or 0) for part in found.groups())
    line, least = ((major, 0), minor) if program == "postgres" else ((major, minor), patch)
    lines = SOUND[program]
    if line in lines:
        sound = least >= lines[line]
    else:
        sound = line > max(lines)
    first = ".".join(map(str, (*line[: 1 if program == "postgres" else 2], lines.get(line, "?"))))
    return (
        None
        if sound
        else (
            f"{program} {found[0]}: has known holes;"
            f" {f'fixed in {first}' if line in lines else 'its release line gets no fixes'}"
        )
    )


def servers() -> list[str]:
    """The holes of the servers that are embedded, one a line; what they are is said."""
    lines = []
    for program in embedded_programs():
        said = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
        sys.stdout.write(f"embedded {program.name}: {said.strip()[:60]}\n")
        lines += filter(None, [hole(program.name, said)])
    return lines


def embedded_programs() -> list[Path]:
    from expunge.embedded import servers as embedded

    return [
        embedded.valkey_binary(),
        *(folder / "postgres" for folder in embedded.installed_postgres().values()),
    ]


def drift() -> str:
    """How far what is installed here is from the lock file."""
    locked: dict[str, set[str]] = {}
    for name, version in re.findall(r"(?m)^([a-z0-9.-]+)==([^ ]+)", LOCK.read_text()):
        locked.setdefault(name, set()).add(version)
    here = {re.sub(r"[-_.]+", "-", d.name).lower(): d.version for d in distributions()}
    other = sorted(
        f"{name} {here[name]}"
        for name, versions in locked.items()
        if name in here and here[name] not in versions
    )
    return (
        f"installed as requirements/dev.lock says, but for {', '.join(other)}"
        if other
        else "installed as requirements/dev.lock says"
    )


def main(reports: list[Path]) -> int:
    """`reports` are pip-audit's own, in place of asking anew."""
    if not reports:
        sys.stdout.write(drift() + "\n")
        if holes := servers():
            sys.stdout.write("\n".join(["Vulnerable servers:", *holes]) + "\n")
            return 1
    for name, report in [(str(file), json.loads(file.read_text())) for file in reports] or (
        (service, ask(service)) for service in SERVICES
    ):
        if report is None:
            continue
        known, lines = told(report)
        if lines:
            sys.stdout.write("\n".join(["Vulnerable packages:", *lines]) + "\n")
            return 1
        if known:
            sys.stdout.write(
                f"{name}: no known vulnerability in {known} of {len(report['dependencies'])} packages; it"
                " knows nothing of the others.\n"
            )
            return 0
        sys.stdout.write(f"{name}: knows none of the {len(report['dependencies'])} packages.\n")
    sys.stdout.write(
        "NOT AUDITED: no advisory service could be asked from here. Run 'make audit' where one can be"
        " reached.\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[1:]]))
