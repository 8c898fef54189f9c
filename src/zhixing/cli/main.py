"""The `zhixing` command: registers every command, and turns every error into one clear message and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from zhixing.cli import evaluate, generate, quickstart, report, resume, runs, tokenizer, train
from zhixing.core.errors import ZhixingError
from zhixing.version import __version__

app = typer.Typer(
    name="zhixing",
    help="知行 Zhixing: the whole life of a language model, on the machine you have.",
    epilog="Begin with: zhixing quickstart",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("quickstart")(quickstart.command)
app.command("train")(train.command)
app.command("resume")(resume.command)
app.command("runs")(runs.command)
app.command("report")(report.command)
app.command("generate")(generate.command)
app.command("eval")(evaluate.command)
app.add_typer(tokenizer.app, name="tokenizer")


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
    try:
        app(standalone_mode=True)
    except ZhixingError as error:
        if os.environ.get("ZHIXING_DEBUG"):
            raise
        print(f"zhixing: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("zhixing: stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away (`| head`); Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if os.environ.get("ZHIXING_DEBUG"):
            raise
        print(
            f"zhixing: internal fault: {type(error).__name__}: {error}\n"
            "  this is a defect of Zhixing, not yours; report what it shows with: zhixing --debug COMMAND ...",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
