"""What a program imports."""

import json
import subprocess
import sys


def loaded_after(*statements: str) -> set[str]:
    """The top-level modules that a fresh process has loaded after the statements."""
    report = "import json, sys; print(json.dumps(list(sys.modules)))"
    program = "\n".join([*statements, report])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout)}
