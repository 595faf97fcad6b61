"""Print the table of all benchmarks: `python -m benchmarks [--quick] [--threads N] [--default-malloc]`."""

from __future__ import annotations

import argparse

import torch

from benchmarks import hub, rl, scores, small, table, zoo
from zoolib.runtime import keep_freed_memory


def main() -> None:
    """Run and print; missed targets are shown, not raised: they depend on the machine and on who else uses it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave out ResNet-50 at 224 px, batch 16 (minutes)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    parser.add_argument("--default-malloc", action="store_true", help="leave the memory allocator as it is")
    options = parser.parse_args()
    kept = not options.default_malloc and keep_freed_memory()
    torch.set_num_threads(options.threads)
    rows = small.run() + zoo.run(not options.quick) + hub.run() + scores.run() + rl.run()
    print(table(rows))
    print(f"CPU time, {options.threads} threads, freed memory {'kept' if kept else 'returned to the system'}")


if __name__ == "__main__":
    main()
