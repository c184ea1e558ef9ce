"""The chat: read a line, remember or answer, show where the answer came from, take feedback.

The conversation is kept in the encrypted file, both sides, unless it is private; then it lives in RAM and ends with the
chat. A memory comes only of the owner's words: "remember that ..." is stored before it is acknowledged, and nothing
that the model said can become one. There is nothing to lose when the chat ends in any way.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import typer

from edge_runtime.answering.answering import statement_to_remember
from edge_runtime.answering.conversations import Turn
from edge_runtime.answering.pipeline import AnswerOptions, Assistant
from edge_runtime.commands.answers import print_answer, print_sources, sources_json
from edge_runtime.commands.support import item_json, print_json, printable
from edge_runtime.device import Device
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.engine import Engine
from protocol.errors import PenchantError

_HELP = (
    "remember that ...   store it               /memories   what is stored\n"
    "/up, /down [why]    rate the last answer   /edit ...   say it in your words\n"
    "/why   how the last answer came about      /new   start over\n"
    "/quit   leave (so do Ctrl-D, and Ctrl-C at the prompt)"
)


@dataclass
class Chat:
    """One talk: `conversation` is the id of a kept one (None: private, then `said` holds its turns)."""

    device: Device
    engine: Engine
    options: AnswerOptions
    as_json: bool
    private: bool
    conversation: str | None = None
    said: list[ChatMessage] = field(default_factory=list)
    last: dict[str, object] | None = None  # the last answer's audit
    last_turn: int | None = None

    def read_lines(self) -> None:
        """Reads lines from standard input until /quit or its end; with `as_json`, one JSON object per line of
        input."""
        if not self.as_json:
            count = len(self.device.memory)
            typer.secho(f"{self.engine.model.name}, {count} memories. /help for what you can type.", dim=True)
        try:
            while True:
                line = _read_line(prompt="" if self.as_json else "you> ")
                if line is None or line.strip() in ("/quit", "/exit"):
                    return
                if line.strip():
                    try:
                        self.one_line(line.strip())
                    except PenchantError as error:  # one bad line does not end the talk
                        typer.echo(f"Error: {' '.join(str(error).split())}", err=True)
        except KeyboardInterrupt:  # at the prompt or between two lines: what was acknowledged is on disk
            typer.echo("", err=True)

    def one_line(self, line: str) -> None:
        """Does what one line asks for."""
        statement = statement_to_remember(line)
        if line.startswith("/"):
            word, _, rest = line.partition(" ")
            self._command(word, rest.strip())
        elif statement:
            item = self.device.memory.remember(statement)
            self._tell({"remembered": item_json(item)}, f"Remembered as {item.id}.")
        else:
            self._answer(line)

    def _answer(self, question: str) -> None:
        if not self.private and self.conversation is None:
            self.conversation = self.device.conversations.new()
        stream = Assistant(self.device, self.engine).stream(
            question, conversation=self.conversation, earlier=self.said, options=self.options
        )
        answer, stopped = print_answer(stream, quiet=self.as_json)
        if self.private:
            self.said += [ChatMessage("user", question), ChatMessage("assistant", answer)]
        self.last, self.last_turn = stream.audit.to_dict(), stream.turn_id
        if self.as_json:
            sources = sources_json(stream)
            print_json({"answer": answer, "stopped": stopped, "turn": stream.turn_id, "sources": sources})
        else:
            print_sources(stream)

    def _command(self, word: str, rest: str) -> None:
        if word == "/new":
            self.conversation, self.said, self.last, self.last_turn = None, [], None, None
        elif word == "/memories":
            for item in self.device.memory.items():
                self._tell(item_json(item), f"[{item.id}] {item.said_at}  {printable(item.text)}")
        elif word in ("/up", "/down"):
            turn, question = self._rated()
            self.device.feedback.thumbs(turn, question, word == "/up", rest)
            self._tell({"rated": turn.id, "up": word == "/up"}, "Noted.")
            self._watch_adapter()
        elif word == "/edit":
            turn, question = self._rated()
            edited = self.device.feedback.edit(turn, question, rest)
            self._tell({"edited": turn.id, "preference": edited.id}, "Noted: yours rather than the model's.")
            self._watch_adapter()
        elif word == "/why" and self.last is not None:
            print_json(self.last)
        else:
            typer.echo(_HELP, err=self.as_json)

    def _watch_adapter(self) -> None:
        """Take the live adapter back if its answers are liked less than those before it, and say so; this chat goes on
        with the adapter that it began with."""
        from edge_runtime.adapters.versions import watch

        if taken_back := watch(self.device.vault, self.device.conversations, self.device.feedback):
            told = f"Adapter {taken_back.version} was {taken_back.reason}. The next chat begins without it."
            self._tell({"rolled_back": taken_back.version, "reason": taken_back.reason}, told)

    def _rated(self) -> tuple[Turn, str]:
        """The last answer and its question; PenchantError if there is none that is kept."""
        if self.last_turn is None:
            reason = "a private chat keeps no answers" if self.private else "nothing has been answered yet"
            raise PenchantError(f"There is no answer to rate: {reason}.")
        turn = self.device.conversations.turn(self.last_turn)
        return turn, self.device.conversations.question_of(turn)

    def _tell(self, value: dict[str, object], text: str) -> None:
        if self.as_json:
            print_json(value)
        else:
            typer.echo(text)


def _read_line(prompt: str) -> str | None:
    """The next line; None at the end of input."""
    try:
        return input(prompt)
    except EOFError:
        return None
