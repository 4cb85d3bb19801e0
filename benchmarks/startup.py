"""Time of `import rtdetr` and `rtdetr --help` in new processes, and the import time per package.

    python benchmarks/startup.py [--rounds 15]

The target is 0.3 s for the help. Times are medians of interleaved rounds, after one warm-up round.
"""

import argparse
import collections
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python, nothing imported": ["-c", ""],
    "import rtdetr": ["-c", "import rtdetr"],
    "rtdetr --help": ["-m", "rtdetr", "--help"],
    "rtdetr train --help": ["-m", "rtdetr", "train", "--help"],
    "rtdetr models": ["-m", "rtdetr", "models"],
    "import torch, for comparison": ["-c", "import torch"],
}


def run(arguments: list[str]) -> str:
    """Run Python in a new process and return its stderr."""
    result = subprocess.run([sys.executable, *arguments], check=True, text=True, capture_output=True)
    return result.stderr


def seconds_by_package(arguments: list[str]) -> list[tuple[str, float]]:
    """Return the own import time of each top-level package from `python -X importtime`, longest first."""
    total: collections.Counter[str] = collections.Counter()
    for line in run(["-X", "importtime", *arguments]).splitlines():
        own, _, module = line.removeprefix("import time:").split("|")
        if own.strip().isdigit():
            total[module.strip().partition(".")[0]] += int(own)
    return [(name, microseconds / 1e6) for name, microseconds in total.most_common()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for i in range(rounds + 1):
        for name, arguments in COMMANDS.items():
            start = time.perf_counter()
            run(arguments)
            if i:
                times[name].append(time.perf_counter() - start)
    for name, values in times.items():
        print(f"{name:30} {statistics.median(values):6.3f} s")
    packages = seconds_by_package(COMMANDS["rtdetr --help"])
    top = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in packages[:6])
    print(f"\nimports of rtdetr --help: {sum(s for _, s in packages):.3f} s, of which {top}")


if __name__ == "__main__":
    main()
