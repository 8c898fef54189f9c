"""Every command of `zhixing`: its name, where its code is, and the line that says what it does.

A start imports the code of the one command that is called, which takes a third of the time that all take. The lines
below are those of the commands' own help; a test holds them to it. The commands themselves are in files of their own.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from zhixing.core.errors import Interrupted
from zhixing.version import __version__


class ReaderGone(Exception):
    """Whatever read our output closed it, as `| head` does."""


class Commands(TyperGroup):
    """All commands: takes Ctrl-C and a closed pipe out of the hands of typer, which says nothing about the one and
    calls the other a failure."""

    def invoke(self, ctx: Any) -> Any:
        """Runs a command."""
        try:
            result = super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()
        except KeyboardInterrupt:
            raise Interrupted("stopped") from None
        except BrokenPipeError as error:
            raise ReaderGone from error
        except SystemExit as ended:
            if isinstance(ended.__context__, BrokenPipeError):  # rich's way of ending on a closed pipe
                raise ReaderGone from ended
            raise
        return result


@dataclass(frozen=True)
class Entry:
    """A command, or a group of commands.

    Attributes:
        name: What the user types.
        place: The module in `zhixing.cli`, and the function or group in it.
        summary: What it does, in one line.
    """

    name: str
    place: str
    summary: str

    def register(self, app: typer.Typer) -> None:
        """Adds its code to the command line."""
        module, attribute = self.place.split(".")
        found = getattr(importlib.import_module(f"zhixing.cli.{module}"), attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=self.name)
        elif self.name in SAMPLING:
            from zhixing.cli.sampling_options import Grouped

            app.command(self.name, cls=Grouped)(found)
        else:
            app.command(self.name)(found)


SAMPLING = ("generate", "chat")
"""Commands with so many options that their help is in groups."""

ENTRIES = (
    Entry(
        "quickstart",
        "quickstart.command",
        "Train a small model on any text, measure it, let it write, and make a report.",
    ),
    Entry("train", "train.command", "Train a model by a recipe."),
    Entry(
        "compare",
        "compare.command",
        "Train several variants of a recipe alike, over several seeds, and say what the intervals allow to be said.",
    ),
    Entry("resume", "resume.command", "Go on with an interrupted run; its folder is all that is needed."),
    Entry("runs", "runs.command", "List the runs with their state and best figures; by a measure, as a leaderboard."),
    Entry("report", "report.command", "Write report.html of a run, in whatever state it is, and print its path."),
    Entry("generate", "generate.command", "Write on from a prompt, as it comes."),
    Entry("chat", "chat.command", "Talk with a model."),
    Entry(
        "doctor",
        "doctor.command",
        "Look at the machine: processor, memory, the C++ core, packages, caches, and what computes which model.",
    ),
    Entry(
        "eval",
        "evaluate.command",
        "Measure a model: bits per byte on text, or with --task how good it is at a task; compare two models.",
    ),
    Entry("export", "export.command", "Export a model for transformers, peft, llama.cpp and others."),
    Entry(
        "score",
        "score.command",
        "Measure predictions against references, as the field computes it, with signature and interval.",
    ),
    Entry("bench", "bench.command", "Run benchmarks on a model, in this process (extra: bench)."),
    Entry("classify", "classify.command", "Say which label a text has: sentiment, topic, intent."),
    Entry("tag", "finding_tasks.tag", "Find names of people, places and the like, with where they stand in the text."),
    Entry(
        "answer",
        "finding_tasks.answer",
        "Answer a question from a text: by the part of it that says so, or in words, naming the passage.",
    ),
    Entry("extract", "finding_tasks.extract", "Extract key information as JSON."),
    Entry("fill", "finding_tasks.fill", "Fill the gaps of a text, written as [MASK] or ____."),
    Entry(
        "translate",
        "text_tasks.translate",
        "Translate texts, sentence by sentence or part by part, so that none is too long.",
    ),
    Entry("summarize", "text_tasks.summarize", "Summarise texts of any length: long ones part by part."),
    Entry("rewrite", "text_tasks.rewrite", "Write texts anew: corrected, shortened, in another style."),
    Entry("complete", "text_tasks.complete", "Go on with a text or code, or fill in what is missing in its middle."),
    Entry("embed", "embed.command", "Turn texts into vectors, for search, clusters and comparison."),
    Entry("describe", "describe.command", "Describe images in words."),
    Entry("find", "find.command", "Find the passages of your texts that fit a question, by meaning and by words."),
    Entry("index", "find.app", "Indexes for `zhixing find`: add, remove, look at."),
    Entry("prompts", "prompts.app", "Prompts of the tasks: list, show, copy."),
    Entry("models", "models.app", "Models: fetch, look at, convert, remove."),
    Entry("ngram", "ngram.app", "N-gram models: ARPA files in and out, a look inside."),
    Entry("tokenizer", "tokenizer.app", "Learn, look at and compare tokenizers."),
    Entry("vectors", "vectors.app", "Word vectors: train (word2vec, fastText), nearest words, analogies."),
    Entry("data", "data.app", "Understand data before it is used."),
)


def command_line(called: str | None = None) -> typer.Typer:
    """Returns the command line.

    Args:
        called: The one command whose code is wanted, all others being names and lines of help; None: all of them.
    """
    app = typer.Typer(
        name="zhixing",
        cls=Commands,
        help="知行 Zhixing: the whole life of a language model, on the machine you have.",
        epilog="Begin with: zhixing quickstart",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for entry in ENTRIES:
        if called is None or called == entry.name:
            entry.register(app)
        else:
            app.command(entry.name, help=entry.summary)(_elsewhere)
    _keep_examples(app)
    app.callback()(options)
    return app


def called_in(arguments: Sequence[str]) -> str | None:
    """Returns the command that these arguments call; "" for none; None where a shell asks what could follow."""
    if "_ZHIXING_COMPLETE" in os.environ:
        return None
    return next((argument for argument in arguments if not argument.startswith("-")), "")


def _elsewhere() -> None:
    """Stands for a command that is not called."""
    raise AssertionError("this command was not called")


def _keep_examples(group: typer.Typer) -> None:
    """Lets each example in the help of a command keep a line of its own, which the formatter would fill up."""
    for command in group.registered_commands:
        if command.callback is not _elsewhere:
            text = inspect.cleandoc((command.callback and command.callback.__doc__) or "")
            command.help = text.replace("\n\nExample: ", "\n\n\b\nExample: ")
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            _keep_examples(inner.typer_instance)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"zhixing {__version__}")
        raise typer.Exit


def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes, only results.")] = False,
) -> None:
    """知行 Zhixing: the whole life of a language model, on the machine you have."""
    from zhixing.core.progress import set_quiet

    set_quiet(quiet)
    if debug:
        os.environ["ZHIXING_DEBUG"] = "1"
