"""What can be said in `zhixing chat`: messages, and commands that begin with a slash."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import typer

from zhixing.cli.chat_output import Output, show

if TYPE_CHECKING:
    from zhixing.api import LanguageModel
    from zhixing.generation.chat import Conversation
    from zhixing.generation.reply import Reply, ReplyStream


class Editor(Protocol):
    """Lets the user edit a text."""

    def edit(self, begun: str) -> str:
        """Returns the text as edited."""


def parse_value(text: str) -> Any:
    """Returns what an option is set to: a number, true, false, none, a JSON value, or else the text itself."""
    if text.lower() in ("none", "off"):
        return None
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except ValueError:
        return text


class Session:
    """One conversation, and what is typed about it.

    Args:
        conversation: With whom, and what was said.
        name: What the user calls the model.
        model: The model.
        save: Where the conversation is written after each turn, if anywhere.
        as_json: Print one JSON object per answer, when it is whole.
        given: The options of generation that the user has set.
    """

    def __init__(
        self,
        conversation: Conversation,
        *,
        name: str,
        model: LanguageModel,
        save: Path | None = None,
        as_json: bool = False,
        given: dict[str, Any] | None = None,
    ) -> None:
        self.conversation, self.name, self.model = conversation, name, model
        self._save, self._given = save, given or {}
        self.output = Output(as_json)
        self.say = self.output.say
        self._editor: Editor | None = None
        self._last_reply: Reply | None = None
        self.commands: dict[str, tuple[Callable[[str], None], str]] = {
            "help": (self._help, "this list"),
            "regenerate": (self._regenerate, "answer again"),
            "edit": (self._edit, "[TEXT]  change your last message and have it answered anew"),
            "continue": (self._continue, "go on with an answer that ended too early"),
            "undo": (self._undo, "take your last message and its answer back"),
            "new": (self._new, "begin anew, with the same system prompt"),
            "system": (self._system, "[TEXT]  show or change the system prompt; 'none' removes it"),
            "set": (self._set, "NAME=VALUE ...  change options: temperature=0.7 top_p=0.9 seed=none"),
            "show": (self._show, "options in force, length of the conversation"),
            "history": (self._history, "what was said"),
            "template": (self._template, "what the model reads, as text"),
            "tokens": (self._tokens, "what the model reads, as tokens"),
            "tools": (self._tools, "[FILE]  show the tools that the model may call, or read them; 'none' removes them"),
            "result": (self._result, "TEXT  the result of the tool that the model has called"),
            "forget": (self._forget, "[on|off]  let the model forget the oldest turns when its context is full"),
            "save": (self._save_to, "FILE  write the conversation as JSON"),
            "load": (self._load, "FILE  go on with a saved conversation"),
            "quit": (self._help, "end; also Ctrl-D"),
        }

    def greet(self) -> None:
        """Says whom the user talks to, and how to get help."""
        chat = self.conversation
        self.say(f"{self.name}: context {chat.context:,} tokens; /help lists the commands, Ctrl-C stops an answer")
        if chat.messages:
            self.say(f"{len(chat.messages)} messages so far")

    def run_script(self, messages: Iterable[str]) -> None:
        """Answers one message after the other; ends at the first that cannot be answered.

        Raises:
            Interrupted: Ctrl-C, in an answer or elsewhere.
        """
        from zhixing.core.errors import Interrupted

        for text in messages:
            if not self.take(text):
                return
            last = self._last_reply
            if last is not None and last.generation.finish_reason == "interrupted":
                raise Interrupted("stopped")

    def take(self, text: str, editor: Editor | None = None) -> bool:
        """Does what a message or a command asks for; False when it asks for the end.

        A message that begins with a slash is written with two.
        """
        from zhixing.core.errors import unknown_name

        self._editor = editor
        if not text.startswith("/") or text.startswith("//"):
            self._answer(self.conversation.say(text[1:] if text.startswith("//") else text))
            return True
        name, _, argument = text[1:].partition(" ")
        name = {"exit": "quit", "q": "quit", "retry": "regenerate", "?": "help", "clear": "new"}.get(name, name)
        if name == "quit":
            return False
        if name not in self.commands:
            raise unknown_name("command", f"/{name}", [f"/{command}" for command in self.commands])
        self.commands[name][0](argument.strip())
        return True

    # Answers

    def _answer(self, stream: ReplyStream) -> None:
        self._last_reply = self.output.answer(stream, self.conversation.context)
        if self._save is not None:
            self._write(self._save)

    def _regenerate(self, argument: str) -> None:
        chat = self.conversation
        if chat.messages and chat.messages[-1]["role"] == "assistant":
            chat.take_back_answer()
            if chat.options.greedy or chat.options.seed is not None:
                kept = "temperature is 0" if chat.options.greedy else f"seed is {chat.options.seed}"
                self.say(f"{kept}: the answer will be the same; /set temperature=0.8 seed=none")
        self._answer(chat.answer())

    def _edit(self, argument: str) -> None:
        from zhixing.core.errors import BadInput

        messages = self.conversation.messages
        last = next((message for message in reversed(messages) if message["role"] == "user"), None)
        if last is None:
            raise BadInput("nothing was said yet")
        if not argument and self._editor is None:
            raise BadInput("/edit needs the new text here", remedy="/edit TEXT")
        text = argument or (self._editor.edit(str(last["content"])) if self._editor is not None else "")
        if not text.strip():
            self.say("nothing was changed")
            return
        taken = self.conversation.undo()
        try:
            stream = self.conversation.say(text)
        except BaseException:
            messages.extend(taken)
            raise
        self._answer(stream)

    def _continue(self, argument: str) -> None:
        self._answer(self.conversation.go_on())

    def _result(self, argument: str) -> None:
        from zhixing.core.errors import BadInput

        messages = self.conversation.messages
        answered = {message.get("tool_call_id") for message in messages if message["role"] == "tool"}
        calls = [call for message in messages for call in message.get("tool_calls") or ()]
        open_calls = [call for call in calls if call.get("id") not in answered]
        if not open_calls:
            raise BadInput("no call of a tool waits for its result")
        call = open_calls[0]
        messages.append(
            {"role": "tool", "tool_call_id": call.get("id"), "name": call["function"]["name"], "content": argument}
        )
        if len(open_calls) > 1:
            self.say(f"{len(open_calls) - 1} more to give, the next of {open_calls[1]['function']['name']}")
            return
        try:
            stream = self.conversation.answer()
        except BaseException:
            messages.pop()
            raise
        self._answer(stream)

    # The conversation

    def _undo(self, argument: str) -> None:
        taken = self.conversation.undo()
        self.say(f"took back {len(taken)} messages, {len(self.conversation.messages)} are left")

    def _new(self, argument: str) -> None:
        system = self.conversation.system
        self.conversation.messages.clear()
        self.conversation.forgotten = 0
        self.conversation.system = system
        self.say("a new conversation")

    def _system(self, argument: str) -> None:
        if argument:
            self.conversation.system = None if argument.lower() == "none" else argument
        self.say(f"system prompt: {self.conversation.system or 'none (the template may have one of its own)'}")

    def _history(self, argument: str) -> None:
        for message in self.conversation.messages:
            typer.secho(f"{message['role']}:", bold=sys.stdout.isatty())
            content = message.get("content")
            show(content if isinstance(content, str) else json.dumps(message, ensure_ascii=False), end="\n")

    def _forget(self, argument: str) -> None:
        from zhixing.core.errors import BadInput

        if argument not in ("on", "off", ""):
            raise BadInput(f"/forget is on or off, got {argument!r}")
        if argument:
            self.conversation.forget = argument == "on"
        self.say(f"forgetting the oldest turns is {'on' if self.conversation.forget else 'off'}")

    def _tools(self, argument: str) -> None:
        from zhixing.core.errors import BadInput
        from zhixing.generation.chat_file import read_tools
        from zhixing.tokenization.tool_schema import tool_schemas

        if argument:
            tools = None if argument.lower() == "none" else read_tools(_path(argument))
            if tools and not self.conversation.format.takes("tools"):
                raise BadInput(
                    "this model's chat template has no place for tools", remedy="use a model trained for them"
                )
            self.conversation.tools = tools
        schemas = tool_schemas(self.conversation.tools) or []
        for schema in schemas:
            function = schema.get("function", schema)
            self.say(f"{function['name']}: {function.get('description', '')}")
        if not schemas:
            self.say("no tools")

    def _save_to(self, argument: str) -> None:
        from zhixing.core.errors import BadInput

        if not argument:
            raise BadInput("/save needs a file", remedy="/save conversation.json")
        self._write(_path(argument))
        self.say(f"saved {len(self.conversation.messages)} messages in {argument}")

    def _write(self, path: Path) -> None:
        from zhixing.generation.chat_file import write_conversation

        chat = self.conversation
        write_conversation(path, chat.messages, model=self.name, tools=chat.tools)

    def _load(self, argument: str) -> None:
        from zhixing.core.errors import BadInput
        from zhixing.generation.chat_file import read_conversation

        if not argument:
            raise BadInput("/load needs a file", remedy="/load conversation.json")
        messages, tools = read_conversation(_path(argument))
        self.conversation.messages[:] = messages
        self.conversation.forgotten = 0
        if tools is not None:
            self.conversation.tools = tools
        self.say(f"{len(messages)} messages from {argument}")

    # What is in force, what the model reads

    def _set(self, argument: str) -> None:
        from dataclasses import fields

        from zhixing.core.errors import BadInput

        try:
            pairs = [word.partition("=") for word in shlex.split(argument)]
        except ValueError as error:
            raise BadInput(f"{error}", where="/set", remedy="close the quotation mark") from error
        if not pairs or not all(equals for _, equals, _ in pairs):
            raise BadInput("/set needs NAME=VALUE", remedy="/set temperature=0.7, for example; /show lists the names")
        chat = self.conversation
        known = {field.name: field.default for field in fields(chat.options)}
        options, variables = {}, dict(chat.variables)
        for name, _, text in pairs:
            value = parse_value(text)
            if name not in known and chat.format.takes(name):
                variables[name] = value
            else:
                options[name] = known.get(name) if value is None else value
        chat.options = chat.options.replace(**options)
        chat.variables = variables
        self._given.update(options)
        self.say(", ".join(f"{name} = {value!r}" for name, value in {**options, **variables}.items()))

    def _show(self, argument: str) -> None:
        from zhixing.cli.sampling_options import describe

        chat = self.conversation
        for line in describe(self.model, chat.options, self._given):
            self.say(line)
        for name, value in chat.variables.items():
            self.say(f"template variable {name} {value!r}")
        ends = chat.format.end_tokens(chat.options.end_tokens or ()) if chat.options.end_tokens != () else ()
        self.say(f"answers end at {' '.join(map(chat.format.tokenizer.piece, ends)) or 'no token'}")
        length = len(chat.prompt(answer=False).tokens) if chat.messages else 0
        forgotten = f", {chat.forgotten} of them no longer read" if chat.forgotten else ""
        self.say(
            f"{len(chat.messages)} messages{forgotten}, {length:,} of {chat.context:,} tokens; forgetting is"
            f" {'on' if chat.forget else 'off'}; {len(chat.tools or ())} tools"
        )

    def _read_by_the_model(self) -> Any:
        from zhixing.core.errors import BadInput

        if not self.conversation.messages:
            raise BadInput("nothing was said yet")
        answered = self.conversation.messages[-1]["role"] == "assistant"
        return self.conversation.prompt(answer=not answered)

    def _template(self, argument: str) -> None:
        show(self._read_by_the_model().text, end="\n")

    def _tokens(self, argument: str) -> None:
        tokenizer = self.conversation.format.tokenizer
        tokens = self._read_by_the_model().tokens
        pieces = []
        for token in tokens:
            piece = f"{token}:{tokenizer.piece(token)}"
            special = token in tokenizer.special_ids and sys.stdout.isatty()
            pieces.append(typer.style(piece, bold=True) if special else piece)
            if tokenizer.piece(token).endswith("⏎"):
                pieces.append("\n")
        print(" ".join(pieces).replace("\n ", "\n"))
        self.say(f"{len(tokens)} tokens")

    def _help(self, argument: str) -> None:
        for name, (_, description) in self.commands.items():
            words, _, rest = description.rpartition("  ")
            typer.echo(f"  {f'/{name} {words}':<24} {rest}", err=True)
        typer.echo('  A line that ends in \\ goes on in the next; """ begins and ends a block of lines.', err=True)
        typer.echo("  A message that begins with a slash is written with two: //etc is what?", err=True)


def _path(argument: str) -> Path:
    words = shlex.split(argument) if argument[:1] in "'\"" else [argument]
    return Path(" ".join(words)).expanduser()
