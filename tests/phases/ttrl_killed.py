"""A learner that a test kills: prints each event once it is durable."""

import json
import sys
from pathlib import Path

import torch

from tests.phases.ttrl_fixtures import Bench, unit_agent


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with Bench(unit_agent(), folder, learning_rate=1e-2) as bench:
        for number in range(bench.learner.num_queries, 1000):
            event = bench.step(number)
            print(json.dumps({"query": event.query}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
