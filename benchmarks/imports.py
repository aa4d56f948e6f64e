"""`python -m benchmarks.imports`: the processor time that our imports take, beside that of `import torch`.

Each module is imported in fresh processes, in turn with the others; what is printed is the median.
"""

import statistics
import subprocess
import sys

TORCH = "torch"
MODULES = ("expunge", "expunge.client.cli", "expunge.core.specs", TORCH, "expunge.core.run")
ROUNDS = 5
BAR = 2.0  # times what torch takes, for the science
PROGRAM = """
import time, {module}
print(time.process_time())
"""


def seconds(module: str) -> float:
    """Processor time of a fresh process that imports the module, in seconds."""
    command = [sys.executable, "-c", PROGRAM.format(module=module)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> int:
    """Exit code 1 when the science takes more than BAR times what torch takes."""
    taken: dict[str, list[float]] = {module: [] for module in MODULES}
    seconds(MODULES[-1])  # once unmeasured: files are read into memory, bytecode is written
    for _ in range(ROUNDS):
        for module in MODULES:
            taken[module].append(seconds(module))
    medians = {module: statistics.median(each) for module, each in taken.items()}
    for module, median in medians.items():
        print(f"{module:<20} {median:5.2f} s  {median / medians[TORCH]:5.2f} of torch")
    ratio = medians["expunge.core.run"] / medians[TORCH]
    print(f"{'held' if ratio <= BAR else 'MISSED'}: the science takes {ratio:.2f} of torch, at most {BAR:g}")
    return 0 if ratio <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
