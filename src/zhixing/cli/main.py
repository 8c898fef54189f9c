"""The `zhixing` command: registers every command, and turns every error into one clear message and an exit code."""

from __future__ import annotations

import contextlib
import gc
import inspect
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from zhixing.cli import (
    bench,
    chat,
    classify,
    compare,
    data,
    describe,
    doctor,
    embed,
    evaluate,
    export,
    find,
    finding_tasks,
    generate,
    models,
    ngram,
    prompts,
    quality,
    quickstart,
    report,
    resume,
    runs,
    score,
    text_tasks,
    tokenizer,
    train,
    vectors,
)
from zhixing.cli.sampling_options import Grouped
from zhixing.core.errors import Interrupted, MissingResource, ZhixingError
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
app.command("quickstart")(quickstart.command)
app.command("train")(train.command)
app.command("compare")(compare.command)
app.command("resume")(resume.command)
app.command("runs")(runs.command)
app.command("report")(report.command)
app.command("generate", cls=Grouped)(generate.command)
app.command("chat", cls=Grouped)(chat.command)
app.command("doctor")(doctor.command)
app.command("eval")(evaluate.command)
app.command("export")(export.command)
app.command("score")(score.command)
app.command("bench")(bench.command)
app.command("classify")(classify.command)
app.command("tag")(finding_tasks.tag)
app.command("answer")(finding_tasks.answer)
app.command("extract")(finding_tasks.extract)
app.command("fill")(finding_tasks.fill)
app.command("translate")(text_tasks.translate)
app.command("summarize")(text_tasks.summarize)
app.command("rewrite")(text_tasks.rewrite)
app.command("complete")(text_tasks.complete)
app.command("embed")(embed.command)
app.command("describe")(describe.command)
app.command("find")(find.command)
app.add_typer(find.app, name="index")
app.add_typer(prompts.app, name="prompts")
app.add_typer(models.app, name="models")
models.app.command("quality")(quality.command)
app.add_typer(ngram.app, name="ngram")
app.add_typer(tokenizer.app, name="tokenizer")
app.add_typer(vectors.app, name="vectors")
app.add_typer(data.app, name="data")


def _keep_examples(group: typer.Typer) -> None:
    """Lets each example in the help of a command keep a line of its own, which the formatter would fill up."""
    for command in group.registered_commands:
        text = inspect.cleandoc((command.callback and command.callback.__doc__) or "")
        command.help = text.replace("\n\nExample: ", "\n\n\b\nExample: ")
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            _keep_examples(inner.typer_instance)


_keep_examples(app)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"zhixing {__version__}")
        raise typer.Exit


@app.callback()
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


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    # What imports make stays for good: to look through it again and again takes a tenth of the time to a first token.
    gc.set_threshold(100_000, 20, 20)
    try:
        app(standalone_mode=True)
    except ReaderGone:
        _discard_output()
        sys.exit(0)
    except Exception as error:
        if os.environ.get("ZHIXING_DEBUG"):
            raise
        if fault := user_fault(error):
            print(f"zhixing: {fault}", file=sys.stderr)
            sys.exit(fault.exit_code)
        print(
            f"zhixing: internal fault: {type(error).__name__}: {error}\n"
            "  this is a defect of Zhixing, not yours; report what it shows with: zhixing --debug COMMAND ...",
            file=sys.stderr,
        )
        sys.exit(1)


def user_fault(error: Exception) -> ZhixingError | None:
    """Returns what an error says to the user; None when it is a fault of this program."""
    from zhixing.core.device import is_memory_fault
    from zhixing.core.files import os_fault

    if isinstance(error, ZhixingError):
        return error
    if is_memory_fault(error):
        return MissingResource(
            "not enough memory",
            remedy="close other programs, or work with a smaller model, batch, context or vocabulary",
        )
    if isinstance(error, OSError) and error.errno is not None:
        if error.filename is None:  # a stream, which need not be standard output, but may
            _discard_output()
        return os_fault(
            error, os.fsdecode(error.filename or "output"), "writing" if error.filename is None else "working"
        )
    return None


def _discard_output() -> None:
    """Sends what is left for standard output nowhere: Python would complain once more when it flushes at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or not a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
