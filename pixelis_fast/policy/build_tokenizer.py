"""Builds the embedded tokenizer: `python -m pixelis_fast.policy.build_tokenizer`.

A byte-level BPE of 2048 tokens with Qwen's pre-tokenisation and Qwen3's added tokens (same strings,
same order, same special flags, other ids), trained on text that this file generates: tool calls,
JSON observations, JSON schemas, questions and instructions. Digits stay single, as Qwen's do. No
normaliser (Qwen has NFC), so any text round-trips. Running it again gives the same files.

The corpus is frozen here and imports no schema or prompt: a reworded description must not move
token ids under trained weights.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

FOLDER = Path(__file__).parent / "embedded"
VOCAB_SIZE = 2048

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's and Qwen3's pre-tokenisation pattern, as their tokenizer.json gives it."""

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
ADDED_NOT_SPECIAL = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>",
    "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>",
    "<think>", "</think>",
)  # fmt: skip


def words(text: str) -> list[str]:
    return text.split()


COLORS = words("red green blue yellow orange purple pink brown black white gray cyan")
SHAPES = words("circle square triangle rectangle star ring cross line arrow disk ellipse polygon")
THINGS = words(
    "image picture photo video frame scene object person people man woman child dog cat bird car"
    " bus truck bike bicycle boat rocket cup coffee table chair door window wall floor sky tree"
    " grass road sign page document title line word letter number text label chart axis bar legend"
    " value total price date name coin hand face eye head background foreground shadow edge corner"
    " top bottom left right center middle part side region area box point mask crop detail"
)
COMMON = words(
    "the of and to in is that it was for on are as with his they at be this have from or one had"
    " by but not what all were we when your can said there use an each which she do how their if"
    " will up other about out many then them these so some her would make like him into has look"
    " two more write go see no way could my than first been call who its now find long down day"
    " did get come made may over new sound take only little work know place year live me back give"
    " most very after our just good think say help through much before turn same right old too any"
    " want show also around small set put end does another well large must big even such here why"
    " ask went read need land different home us move try kind hand again change off play spell air"
    " away animal house point page letter mother answer found study still learn should world high"
    " every near add food between own below country plant last school father keep never start city"
    " earth eye light thought under story saw left few while along might close something seem next"
    " hard open example begin life always those both paper together got group often run important"
    " until children side feet mile night walk white sea began grow took river four carry state"
    " once book hear stop without second later miss idea enough eat far really almost let above"
    " girl sometimes mountain cut young talk soon list song being leave family body music stand"
    " sun question fish area mark dog horse birds problem complete room knew since ever piece told"
    " usually friends easy heard order red door sure become top ship across today during short"
    " better best however low hours black products happened whole measure remember early waves"
    " reached listen wind rock space covered fast several hold himself toward five step morning"
    " passed vowel true hundred against pattern numeral table north slowly money map farm pulled"
    " draw voice seen cold cried plan notice south sing war ground fall king town unit figure"
    " certain field travel wood fire upon visible hidden behind front inside outside beside bright"
    " dark blurry sharp empty full closed standing sitting walking running holding wearing driving"
    " riding flying falling turning entering leaving opening closing appears disappears moves"
    " stops starts rotates grows shrinks equal total count width height length size depth distance"
    " angle speed direction horizontal vertical diagonal upper lower nearest farthest largest"
    " smallest shortest longest brightest darkest highest lowest percent percentage ratio sum"
    " average minimum maximum amount quantity company address phone email invoice receipt tax"
    " subtotal payment account signature section chapter column row cell header footer caption"
    " menu button icon window screen camera lens street traffic vehicle driver wheel plate license"
    " bridge building station airport hospital office kitchen bedroom bathroom garden park beach"
    " forest lake snow rain cloud evening January February March April May June July August"
    " September October November December Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
    " therefore because although instead probably clearly exactly approximately compare verify"
    " confirm estimate identify locate inspect describe explain conclude evidence observation"
    " result region crop enlarge segment outline contour pixel frame sequence moment interval"
    " duration timestamp trajectory path"
)
EVENTS = ("change", "motion", "appearance", "text")
TOOLS = ("zoom", "segment", "track", "read_text", "localize", "properties")
SENTENCES = (
    "You are a careful visual assistant. You see images and videos and act on their pixels.",
    "Think first, then call one tool or give the final answer inside <answer></answer>.",
    "You may call one or more functions to assist with the user query.",
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>",
    "For each function call, return a json object with function name and arguments within <tool>:",
    '{"name": <function-name>, "arguments": <args-json-object>}',
    "Coordinates are integers from 0 to 1000, of the width and height of the original frame.",
    "Times are seconds. A box is [x0, y0, x1, y1] with x0 < x1 and y0 < y1; a point is [x, y].",
    "Boxes and points always refer to the original frame, never to an enlarged crop.",
    "Index of the image or video, from 0. Index of a mask that an earlier observation named.",
    "Second of a video; leave out for an image. Second at which the box is given.",
    "Show a part of an image or video frame, enlarged. Follow the object in a box through a video.",
    "Read the text in an image or video frame, or inside a box of it.",
    "Find when something happens in a video. Words to look for, for text and appearance events.",
    "Area, box, centre, colour and orientation of a mask. Mask of the object at a point.",
    "Give a short answer. When nothing more is needed, answer. Do not repeat the same call.",
    "The text is too small to read, so I will zoom in on it first.",
    "I need to look closer at the lower right corner before I can answer the question.",
    "The crop shows the sign clearly, so I can read the text now.",
    "Next I should segment the object and compare its area with the other one.",
    "First I find when the motion starts, then I track the object until it leaves the frame.",
    "That was the wrong region. The observation does not match the question, so I try again.",
    "The mask covers the whole object; its properties give the area and the mean color.",
    "Let me check the time at which the scene changes. Now I have enough evidence.",
    "It was not there before, but it appears after about three seconds and moves to the left.",
    "There are two of them: the larger one is near the top and the smaller one is below it.",
    "Because the video is long, I will localize the event between the start and the end.",
    "expected an integer from 0 to 1000, got; expected one of the tools; expected media and box",
)
QUESTIONS = (
    "What color is the {c} {s}?", "How many {c} {s}s are there in the {t}?",
    "What does the {t} on the {t2} say?", "Where is the {c} {s}?", "When does the {t} appear?",
    "Which {t} is larger, the {c} {s} or the {t2}?", "Is there a {s} near the {t}?",
    "Does the {t} move to the left or to the right?", "What is the {t} of the {t2}?",
    "What is written below the {t}?", "What happens after the {t} leaves the {t2}?",
    "The {c} {s} is at the {t} of the {t2}.", "I see a {c} {s} next to the {t}.",
    "I will zoom in on the {t} to read the {t2}.", "The {t} is {c}, so the answer is {c}.",
)  # fmt: skip


def build() -> Tokenizer:
    """Trains the tokenizer; deterministic."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_only])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL) - len(ADDED_NOT_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    added = [AddedToken(t, special=False, normalized=False) for t in ADDED_NOT_SPECIAL]
    tokenizer.add_tokens(added)
    return tokenizer


def tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 262144,
    }


def write(folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json; chat_template.jinja is written by hand."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(build().to_str() + "\n", encoding="utf-8")
    config = json.dumps(tokenizer_config(), indent=2)
    (folder / "tokenizer_config.json").write_text(config + "\n", encoding="utf-8")


def corpus() -> Iterator[str]:
    """About a megabyte of text, the same each time."""
    draw = random.Random(20260325)
    for _ in range(1500):
        yield question(draw)
        yield f"<tool_call>\n{compact(call(draw))}\n</tool_call>"
        yield f"{draw.choice(SENTENCES)} {question(draw)}\n<answer>{answer(draw)}</answer>"
        yield f"<tool_response>\n{compact(observation(draw))}\n</tool_response>"
    for _ in range(100):
        yield from SENTENCES
        yield json.dumps(schema(draw))
        yield (
            "system\n"
            + "user\n"
            + "assistant\n"
            + f"<{draw.randrange(90)}.{draw.randrange(9)} seconds>"
        )
    for word in COMMON:
        yield f"{word} {word} {word}, {word} {word} {word.title()}"
    for first, second in itertools.product(COLORS + THINGS, THINGS):
        yield f"the {first} {second}, a {second}"


def compact(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def question(draw: random.Random) -> str:
    fields = {"c": COLORS, "s": SHAPES, "t": THINGS, "t2": THINGS}
    return draw.choice(QUESTIONS).format(**{k: draw.choice(v) for k, v in fields.items()})


def answer(draw: random.Random) -> str:
    return draw.choice(
        [draw.choice(COLORS), str(draw.randrange(100)), "yes", "no", "left", "right"]
    )


def box(draw: random.Random) -> list[int]:
    x0, x1 = sorted(draw.sample(range(1001), 2))
    y0, y1 = sorted(draw.sample(range(1001), 2))
    return [x0, y0, x1, y1]


def seconds(draw: random.Random) -> float:
    return round(draw.uniform(0, 60), 1)


def call(draw: random.Random) -> dict[str, Any]:
    name = draw.choice(TOOLS)
    time = {"time": seconds(draw)} if draw.random() < 0.4 else {}
    media = {"media": draw.randrange(3)}
    arguments: dict[str, dict[str, Any]] = {
        "zoom": {**media, "box": box(draw), **time},
        "segment": {**media, **draw.choice([{"point": box(draw)[:2]}, {"box": box(draw)}]), **time},
        "track": {**media, "box": box(draw), "start": seconds(draw), "end": seconds(draw)},
        "read_text": {**media, **draw.choice([{}, {"box": box(draw)}]), **time},
        "localize": {**media, "event": draw.choice(EVENTS), "query": draw.choice(THINGS)},
        "properties": {"mask": draw.randrange(9)},
    }
    return {"name": name, "arguments": arguments[name]}


def observation(draw: random.Random) -> dict[str, Any]:
    score = round(draw.random(), 2)
    span = {"start": seconds(draw), "end": seconds(draw), "score": score}
    words = " ".join(draw.sample(THINGS, 3)).title()
    return draw.choice(
        [
            {"media": 0, "box": box(draw), "width": 640, "height": 480},
            {"mask": draw.randrange(9), "box": box(draw), "area_permille": 12.5, "score": score},
            {"lines": [{"text": words, "box": box(draw), "score": score}]},
            {"spans": [span], "keyframe": seconds(draw)},
            {"times": [seconds(draw)], "boxes": [box(draw), None], "masks": [0, None], "lost": []},
            {
                "area_px": 1234, "area_permille": 4.2, "box": box(draw), "centroid": box(draw)[:2],
                "color_rgb": [200, 30, 30], "color_name": draw.choice(COLORS),
                "orientation_deg": -12.5, "elongation": 1.8,
            },
            {"error": "zoom: box: expected [x0, y0, x1, y1] with x0 < x1 and y0 < y1, got"},
        ]
    )  # fmt: skip


def schema(draw: random.Random) -> dict[str, Any]:
    integer = {"type": "integer", "minimum": 0, "maximum": 1000}
    number = {"type": "number", "minimum": 0, "maximum": 86400, "description": "Second of a video."}
    properties = {
        "media": {**integer, "description": "Index of the image or video, from 0."},
        "box": {"type": "array", "items": integer, "minItems": 4, "maxItems": 4},
        "point": {"type": "array", "items": integer, "minItems": 2, "maxItems": 2},
        "time": number, "start": number, "end": number,
        "event": {"type": "string", "enum": list(EVENTS), "description": "What to look for."},
        "query": {"type": "string", "minLength": 1, "maxLength": 200, "description": "Words."},
        "mask": {**integer, "description": "Index of a mask."},
    }  # fmt: skip
    parameters = {
        "type": "object",
        "properties": properties,
        "required": ["media", "box"],
        "additionalProperties": False,
        "oneOf": [{"required": ["point"]}, {"required": ["box"]}],
    }
    function = {"name": draw.choice(TOOLS), "description": "Show", "parameters": parameters}
    return {"type": "function", "function": function}


if __name__ == "__main__":
    write(FOLDER)
