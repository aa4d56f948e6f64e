"""Audit the installed packages against the advisories of PyPI, else of OSV: exit 1 for a vulnerable one, 0 where none is, or where nobody could be asked.

pip-audit says "No known vulnerabilities found" of packages that the service does not know, too: here those are counted, and said.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

IGNORED: dict[str, str] = {}
"""Advisory id -> why we live with it and until when; only where no fixed release exists."""
SERVICES = ("pypi", "osv")
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
            done = subprocess.run([*command, "--progress-spinner", "off"], capture_output=True, text=True, timeout=PATIENCE)
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
        f"{package['name']} {package['version']}: {entry['id']}, fixed in {', '.join(entry['fix_versions']) or 'no release yet'}"
        for package in known
        for entry in package["vulns"]
        if not {entry["id"], *entry.get("aliases", [])} & IGNORED.keys()
    ]
    return len(known), lines


def main(reports: list[Path]) -> int:
    """`reports` are pip-audit's own, in place of asking anew."""
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
                f"{name}: no known vulnerability in {known} of {len(report['dependencies'])} packages; it knows nothing of the others.\n"
            )
            return 0
        sys.stdout.write(f"{name}: knows none of the {len(report['dependencies'])} packages.\n")
    sys.stdout.write("NOT AUDITED: no advisory service could be asked from here. Run 'make audit' where one can be reached.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[1:]]))
