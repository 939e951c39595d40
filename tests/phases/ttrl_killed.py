"""A learner that a test kills: prints each event once it is durable. Every second one abstains."""

import json
import sys
from pathlib import Path

import torch

from tests.phases.ttrl_fixtures import AGREED, Bench, unit_agent


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with Bench(unit_agent(), folder, learning_rate=1e-2) as bench:
        for number in range(bench.learner.num_queries, 1000):
            bench.run.answers = {"24": 2, "7": 2} if number % 2 else AGREED
            event = bench.step(number)
            row = {"query": event.query, "status": event.status.value, "answer": event.answer}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
