"""The tree and the table that `pixelis ask` prints, line by line."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.show import LONGEST_TEXT, chain_tree, time_table
from pixelis_fast.types import (
    Observation,
    RolloutStatus,
    Sample,
    Step,
    TokenRole,
    ToolCall,
    Trajectory,
)

TOKENIZER = Tokenizer.embedded()
ZOOM = ToolCall("zoom", {"media": 0, "box": [0, 0, 500, 500]})


def printed(shown) -> list[str]:
    """The lines, without the tree's branches."""
    console = Console(width=400, color_system=None)
    with console.capture() as capture:
        console.print(shown)
    return [line.strip(" │├└─┃┏┓┡┩┗┛━┳╇┴╋┻┬┌┐┘┼") for line in capture.get().splitlines()]


def chain(*, thought: str = "look closer", **changes) -> Trajectory:
    """A prompt, one thought and a call with its observation, and an answer."""
    prompt, thought_ids, rest = [TOKENIZER.encode_text(text) for text in ("ask", thought, "call")]
    ids = [*prompt, *thought_ids, *rest]
    roles = [TokenRole.PROMPT] * len(prompt) + [TokenRole.THOUGHT] * len(thought_ids)
    step = Step(len(prompt), len(ids), call=ZOOM, observation=Observation('{"view":[0,0,500,500]}'))
    trajectory = Trajectory(
        Sample("1", (), "what [is] it?"),
        policy_version="",
        seed=0,
        ids=ids,
        roles=[*roles, *[TokenRole.OPERATION] * len(rest)],
        steps=[step],
        answer="a [red] disk",
        status=RolloutStatus.ANSWERED,
    )
    return replace(trajectory, **changes)


def tree(trajectory: Trajectory, *pictures: list[Path]) -> list[str]:
    return printed(chain_tree(trajectory, TOKENIZER, pictures=pictures))


def test_a_chain_is_told_in_its_order():
    assert tree(chain(), [Path("out/step-1-crop-0.png"), Path("out/[a].png")]) == [
        "what [is] it?",
        "1. zoom {'media': 0, 'box': [0, 0, 500, 500]}",
        "look closer",
        '{"view":[0,0,500,500]}',
        "saved out/step-1-crop-0.png",
        "saved out/[a].png",
        "a [red] disk (answered)",
    ]


def test_pictures_stand_below_their_own_step():
    first, second = Path("first.png"), Path("second.png")
    two = chain()
    two.steps *= 2
    lines = tree(two, [first], [second])
    titles = [i for i, line in enumerate(lines) if "zoom" in line]
    assert titles[0] < lines.index("saved first.png") < titles[1] < lines.index("saved second.png")


def test_a_failed_call_shows_its_error_and_a_degraded_one_its_reason():
    step = Step(0, 0, call=None, observation=Observation("no such tool", error="no such tool"))
    assert tree(chain(steps=[step]))[1:3] == ["1. answer or unreadable call", "no such tool"]
    second_best = Observation("{}", degraded="colour only")
    assert "degraded: colour only" in tree(chain(steps=[Step(0, 0, ZOOM, second_best)]))


def test_a_chain_that_did_not_answer_says_how_it_ended():
    left = chain(answer=None, status=RolloutStatus.FAILED, error="no [room]")
    assert tree(left)[-2:] == ["no answer (failed)", "no [room]"]
    assert tree(chain(answer=None, status=None))[-1] == "no answer (running)"


def test_a_long_text_is_cut_and_the_rest_counted():
    text = "x" * (LONGEST_TEXT + 7)
    lines = tree(chain(steps=[Step(0, 0, ZOOM, Observation(text))]))
    assert f"{'x' * LONGEST_TEXT}… (7 more characters)" in lines


def test_the_time_table_begins_with_the_longest():
    lines = printed(time_table(chain(stage_ms={"parse": 1.25, "decode": 20.0, "prompt": 3.0})))
    stages = [line.split()[0] for line in lines if line.split()[:1] != [] and "│" in line]
    assert stages == ["decode", "prompt", "parse"]
    assert any(line.split() == ["decode", "│", "20.0"] for line in lines)
