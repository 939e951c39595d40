"""`pixelis ask | rollout | serve | world | train | ttrl | eval | prepare | reproduce | doctor`.

The command line prints results and knows no mechanism.

pixelis ask picture.png "What does the sign say?"
pixelis rollout questions.jsonl --out runs/first
pixelis rollout --replay runs/first
pixelis world runs/world && pixelis rollout runs/world/tasks.jsonl
pixelis serve --policy qwen3-vl-8b-folder --media-root pictures
pixelis prepare runs/pixelworld && pixelis train sft --data runs/pixelworld --out runs/sft
pixelis eval vstar vstar_bench --policy runs/sft/policy --out runs/vstar
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pixelis_fast.agent import Agent, AgentConfig, build_agent
from pixelis_fast.cli_learning import add_learning
from pixelis_fast.doctor import findings
from pixelis_fast.eval.metrics import answer_scores
from pixelis_fast.options import takes_agent_options
from pixelis_fast.pictures import save_pictures
from pixelis_fast.plain_errors import plain_errors, warnings
from pixelis_fast.replay import replay
from pixelis_fast.samples import read_samples
from pixelis_fast.show import chain_tree, time_table
from pixelis_fast.tools import ToolConfig
from pixelis_fast.trace import MEDIA_FOLDER, differences, read_trace, write_trace
from pixelis_fast.types import Sample, Trajectory

app = typer.Typer(help="Pixel-acting vision-language agents, fast.", no_args_is_help=True)
console = Console()

Options = Callable[[], AgentConfig]
LOOPBACK = ("127.0.0.1", "::1")


@app.command()
@takes_agent_options
def ask(
    media: Annotated[Path, typer.Argument(help="An image or a video.")],
    question: Annotated[str, typer.Argument(help="What to find out.")],
    options: Options,
    out: Annotated[Path, typer.Option(help="Folder for pictures and trace.")] = Path("runs/ask"),
) -> None:
    """Answers one question about one image or video, and shows the chain."""
    with plain_errors():
        agent = open_agent(options())
        sample = Sample("ask", (agent.tools.add_media(media),), question)
        with warnings.status("looking…"):
            [trajectory] = agent.rollout.run([sample])
        save_trace(out, agent, [trajectory])
        pictures = [
            save_pictures(step.observation, agent.tools.store, folder=out, name=f"step-{number}")
            for number, step in enumerate(trajectory.steps, start=1)
            if step.observation is not None
        ]
        console.print(chain_tree(trajectory, agent.tokenizer, pictures=pictures))
        console.print(time_table(trajectory))


@app.command()
@takes_agent_options
def rollout(
    options: Options,
    samples: Annotated[
        Path | None, typer.Argument(help='JSON lines: {"id", "media": [paths], "question"}.')
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the trace.")] = Path("runs/rollout"),
    recorded: Annotated[
        Path | None,
        typer.Option("--replay", help="A trace folder: run it again, compare every token."),
    ] = None,
) -> None:
    """Runs a file of questions to a trace; or replays a trace, with the trace's own settings."""
    with plain_errors():
        if samples is not None and recorded is None:
            run_samples(samples, options(), out=out)
        elif recorded is not None and samples is None:
            replay_trace(recorded)
        else:
            raise ValueError("expected either a file of samples or --replay, got both or neither")


@app.command()
@takes_agent_options
def serve(
    options: Options,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8000,
    name: Annotated[
        str | None, typer.Option(help="The model's name for clients; without, the policy's.")
    ] = None,
    media_root: Annotated[
        Path | None, typer.Option(help="Folder whose files clients may name by file: URLs.")
    ] = None,
    fetch_host: Annotated[
        list[str] | None,
        typer.Option(help="Host (or host:port) clients' http: URLs may name; may be repeated."),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="PIXELIS_API_KEY", help="What clients send as a bearer token."),
    ] = None,
    max_requests: Annotated[
        int, typer.Option(help="Completions running or waiting; above, clients get 429.")
    ] = 128,
    timeout: Annotated[float, typer.Option(help="Seconds per request, waiting included.")] = 300.0,
    prefill_tokens: Annotated[
        int | None,
        typer.Option(help="Most prompt tokens in one forward; without, whatever is there.", min=1),
    ] = None,
    prefetch_arrivals: Annotated[
        bool, typer.Option(help="Let SAM 2 and the text detector look at pictures that arrive.")
    ] = False,
    trace_mib: Annotated[int, typer.Option(help="Budget of kept traces; 0 keeps none.")] = 256,
    ttrl: Annotated[
        Path | None, typer.Option(help="Learn from what is answered; folder of memory and log.")
    ] = None,
    canary: Annotated[
        Path | None,
        typer.Option(help="Samples with answers, which no published update may make worse."),
    ] = None,
) -> None:
    """Serves the agent over HTTP, as OpenAI's chat completions, with a viewer of its traces."""
    with plain_errors():
        run_server(
            options(),
            learn_into=ttrl,
            canary=canary,
            host=host,
            port=port,
            name=name,
            media_root=media_root,
            fetch_hosts=tuple(fetch_host or ()),
            api_key=api_key,
            max_requests=max_requests,
            request_timeout_s=timeout,
            prefill_tokens=prefill_tokens,
            prefetch_arrivals=prefetch_arrivals,
            trace_bytes=trace_mib << 20,
        )


@app.command()
def doctor(
    sam2: Annotated[str | None, typer.Option(help="SAM2 weights to judge the tools by.")] = None,
    device: Annotated[str, typer.Option(help="Device to judge the tools by.")] = "cpu",
) -> None:
    """Prints devices, versions, backends with reasons, weights, and what each tool runs on."""
    with plain_errors():
        table = Table("section", "what", "state", title="pixelis doctor")
        for finding in findings(ToolConfig(sam2=sam2), device=device):
            style = None if finding.good else "yellow"
            table.add_row(finding.section, finding.name, escape(finding.value), style=style)
        console.print(table)


def open_agent(config: AgentConfig) -> Agent:
    with warnings.status("opening policy and tools…"):
        agent = build_agent(config)
    for note in agent.degraded:
        warnings.print(f"[yellow]degraded:[/yellow] {escape(note)}")
    return agent


add_learning(app)


def run_server(
    config: AgentConfig,
    *,
    media_root: Path | None,
    fetch_hosts: tuple[str, ...],
    learn_into: Path | None,
    canary: Path | None,
    **settings: Any,
) -> None:
    """Listens before the agent is built: a taken port is told at once."""
    if canary is not None and learn_into is None:
        raise ValueError(f"--canary: expected --ttrl with it, got {canary} alone")
    try:
        from pixelis_fast.serve.config import MediaRules, ServeConfig
        from pixelis_fast.serve.fetch import FetchRules
        from pixelis_fast.serve.server import bind, serve
    except ModuleNotFoundError as error:
        raise ValueError(
            f"serve: expected the package {error.name}, got none; pip install 'pixelis-fast[serve]'"
        ) from error
    media = MediaRules(root=media_root, fetch=FetchRules(fetch_hosts))
    served = ServeConfig(media=media, **settings)
    with bind(served) as listening:
        agent = open_agent(config)
        host, port, *_ = listening.getsockname()
        if host not in LOOPBACK and served.api_key is None:
            warnings.print(
                f"[yellow]open:[/yellow] {host} is no loopback address, and no key is set"
            )
        shown = escape(f"[{host}]" if ":" in host else host)
        console.print(
            f"serving on http://{shown}:{port}/v1; traces, /health and /metrics beside it"
        )
        serve(agent, served, listening, beside=learner(learn_into, canary, agent))


def learner(folder: Path | None, canary: Path | None, agent: Agent) -> Any:
    """What learns beside the server; None where nothing shall."""
    if folder is None:
        return None
    samples = [] if canary is None else read_samples(canary, agent.tools)
    from pixelis_fast.phases.ttrl_types import TtrlConfig
    from pixelis_fast.serve.learning import learning

    return partial(learning, config=TtrlConfig(out=str(folder)), canary=samples)


def run_samples(path: Path, config: AgentConfig, *, out: Path) -> None:
    agent = open_agent(config)
    samples = read_samples(path, agent.tools)
    with warnings.status(f"running {len(samples)} questions…"):
        trajectories = agent.rollout.run(samples)
    save_trace(out, agent, trajectories)
    console.print(summary(trajectories))
    console.print(f"trace in {out}; run it again with: pixelis rollout --replay {out}")


def save_trace(folder: Path, agent: Agent, trajectories: Sequence[Trajectory]) -> None:
    agent.tools.store.export(media_ids(trajectories), folder / MEDIA_FOLDER)
    write_trace(folder, agent=agent.config.to_json(), trajectories=trajectories)


def media_ids(trajectories: Sequence[Trajectory]) -> list[str]:
    """Every media a trace needs: the samples' and what the tools made."""
    asked = [media.id for t in trajectories for media in t.sample.media]
    seen = [span.media_id for t in trajectories for span in t.spans]
    return list(dict.fromkeys(asked + seen))


def replay_trace(folder: Path) -> None:
    """Runs a trace's trajectories again and compares tokens, log-probabilities and observations."""
    trace = read_trace(folder)
    agent = open_agent(AgentConfig.from_json(trace.agent))
    agent.tools.store.import_folder(folder / MEDIA_FOLDER)
    with warnings.status(f"replaying {len(trace.trajectories)} trajectories…"):
        replayed = replay(agent.rollout, trace.trajectories)
    found = [
        f"{recorded.sample.id}: {difference}"
        for recorded, again in zip(trace.trajectories, replayed, strict=True)
        for difference in differences(recorded, again)
    ]
    if found:
        raise ValueError("replay differs: " + "; ".join(found))
    tokens = sum(len(t.ids) for t in replayed)
    console.print(f"replayed {len(replayed)} trajectories, {tokens} tokens: identical")


def summary(trajectories: Sequence[Trajectory]) -> Table:
    """With a score where an answer is known."""
    table = Table("sample", "status", "steps", "tokens", "seconds", "answer", "truth", "score")
    for t in trajectories:
        seconds = f"{sum(t.stage_ms.values()) / 1e3:.2f}"
        status = t.status.value if t.status else "running"
        score = "".join(f"{score:.2f}" for score in answer_scores([t]))
        answers = (t.answer or "", t.sample.answer or "", score)
        row = (t.sample.id, status, str(len(t.steps)), str(len(t.ids)), seconds, *answers)
        table.add_row(*map(escape, row))
    if scores := answer_scores(trajectories):
        table.caption = (
            f"{sum(scores) / len(scores):.0%} right of {len(scores)} with a known answer"
        )
    return table
