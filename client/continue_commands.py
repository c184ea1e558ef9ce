"""`penchant continue`: a long text goes on in its own way, by an adapter that reads it and is then thrown away."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_runtime.commands.support import AsJson, Home, need, one_line_errors, opened_device, print_json, printable
from edge_runtime.models.background import memory_capped
from edge_runtime.models.resources import MIB
from protocol.errors import PenchantError

_CONTEXT_TOKENS = 2048


@one_line_errors
def go_on(
    file: Annotated[Path, typer.Argument(help="The text: plain, Markdown, a web page or a PDF.")],
    max_tokens: Annotated[int, typer.Option(min=1, max=1024, help="How much to write, in tokens.")] = 160,
    memory: Annotated[int, typer.Option(min=256, help="Most memory that reading may take, in MiB.")] = 2048,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a long text where it ends. An adapter learns the text as it is read, on top of your own one, and is
    thrown away: nothing of the text is kept, on no disk.

    Ctrl-C while it reads: it goes on with what was read until then.
    """
    need("torch", "transformers")
    from rich.console import Console
    from rich.progress import Progress

    from client.commands import pause_on_signals
    from client.device_profile import MINIMUM_TEXTS
    from client.personal_plan import profile_of
    from client.personal_training import own_frame
    from client.temporary_adapter import temporary_adapter
    from client.training import open_trainer, serving_model
    from edge_runtime.answering.drafting import DRAFT_SAMPLING
    from edge_runtime.engine.engine import Engine
    from edge_runtime.ingestion.detection import detect_reader

    try:
        text = "\n\n".join(section.text for section in detect_reader(file).read(file))
    except PenchantError as error:
        raise PenchantError(f"{file.name}: {error}") from None
    model = serving_model()
    profile = profile_of(model, MINIMUM_TEXTS, private=False, memory_bytes=memory * MIB)
    with (
        opened_device(home, create=True) as device,
        memory_capped(memory * MIB),
        Engine.open(model, context_tokens=_CONTEXT_TOKENS, threads=profile.threads) as engine,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        live = device.adapters.live("drafts")
        if live and live[0].base_sha256 == model.sha256:
            engine.use_adapters([(engine.load_adapter(live[1], sha256=live[0].sha256), 1.0)])
        tokens = engine.tokenise(text, special=False)
        if not tokens:
            raise PenchantError(f"{file.name}: there is no text in it")
        task = progress.add_task("Reading", total=1.0)
        trainer = open_trainer(profile.layers)
        frame = own_frame(trainer, lambda fraction: None)
        with (
            pause_on_signals("Going on with what was read; once more to stop at once.") as asked,
            temporary_adapter(
                trainer,
                engine,
                text,
                frame=frame,
                on_progress=lambda fraction: progress.update(task, completed=fraction),
                wants_stop=asked,
            ) as temporary,
        ):
            progress.stop()
            prompt = tokens[-(_CONTEXT_TOKENS - max_tokens) :]
            written = "".join(engine.generate(prompt, max_tokens=max_tokens, sampling=DRAFT_SAMPLING)).strip()
            read = temporary.read_tokens
    if as_json:
        print_json({"file": file.name, "tokens": len(tokens), "read_tokens": read, "text": written})
        return
    typer.echo(printable(written))
    typer.secho(f"  after {read:,} of {len(tokens):,} tokens, whose adapter is gone", dim=True)
