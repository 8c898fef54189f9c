"""`zhixing data`: what is wrong with a data set, and a mended copy of it; generated pictures and sums."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from zhixing.data.doctor import Diagnosis
    from zhixing.workflows.inspection import ShownBatch

app = typer.Typer(help="Understand data before it is used.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Understand data before it is used."""


@app.command("doctor")
def doctor(
    paths: Annotated[list[str], typer.Argument(help="Files, folders, globs, also .gz .zst .zip.")],
    fix: Annotated[str | None, typer.Option(metavar="OUT", help="Write a mended copy to this file or folder.")] = None,
    shape: Annotated[
        str | None, typer.Option(help="The shape of the records; found by looking when not given.")
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", metavar="ROLE=COLUMN", help="Which column holds what: source=en.")
    ] = None,
    against: Annotated[
        list[str] | None, typer.Option(metavar="FILES", help="An evaluation set that must not be trained on.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Measure lengths in tokens of this model.")] = None,
    longest: Annotated[
        int | None, typer.Option(help="How long a record may be: tokens with --model, else characters.")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="Leave this kind of fault as it is; repeat for more.")
    ] = None,
    show: Annotated[int, typer.Option(help="Show so many findings of each kind.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show how data is read, what is wrong with it, and how to mend it.

    Example: zhixing data doctor train.jsonl --against test.jsonl --fix mended.jsonl
    """
    import json

    from zhixing.core.errors import BadInput, unknown_name
    from zhixing.data.doctor import KINDS, Options, examine, write_mended
    from zhixing.data.doctor.examine import LONGEST
    from zhixing.data.shapes import SHAPES

    if shape is not None and shape not in SHAPES:
        raise unknown_name("shape", shape, SHAPES, where="--shape")
    for kind in keep or []:
        if kind not in KINDS:
            raise unknown_name("kind of fault", kind, KINDS, where="--keep")
    mapping = {}
    for pair in columns or []:
        role, equals, column = pair.partition("=")
        if not role or not equals or not column:
            raise BadInput(f"{pair!r} is not ROLE=COLUMN", where="--column", remedy="--column source=en")
        mapping[role] = column
    measure = None
    if model is not None:
        from zhixing.checkpoints.model_tokenizer import open_tokenizer

        tokenizer = open_tokenizer(model)
        measure = lambda text: len(tokenizer.encode(text))  # noqa: E731 - shorter than a function around it
    options = Options(
        shape=shape,
        columns=mapping or None,
        against=tuple(against or ()),
        longest=longest if longest is not None else (2048 if model is not None else LONGEST),
        measure=measure,
        unit="tokens" if model is not None else "characters",
        keep=frozenset(keep or ()),
    )
    with examine(paths, options) as diagnosis:
        if not as_json:  # before anything can go wrong with the copy
            _print(diagnosis, show)
        written = write_mended(diagnosis, fix) if fix is not None else []
    if as_json:
        print(json.dumps({**diagnosis.to_json(), "written": [str(path) for path in written]}, ensure_ascii=False))
        return
    if written:
        left = sum(len(plan.left_out) + sum(map(len, plan.questions.values())) for plan in diagnosis.plans)
        anew = sum(len(plan.anew) for plan in diagnosis.plans)
        print(f"\nMended copy: {', '.join(map(str, written))} ({left:,} left out, {anew:,} written anew)")
    elif diagnosis.findings.total:
        print("\nA mended copy: add --fix OUT")


@app.command("pictures")
def pictures(
    out: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")],
    count: Annotated[int, typer.Option(help="Pictures to train on.")] = 4000,
    unseen: Annotated[int, typer.Option(help="Pictures with combinations that training never shows.")] = 500,
    seed: Annotated[int, typer.Option(help="Another seed, other pictures and combinations.")] = 0,
    side: Annotated[int, typer.Option(help="Height and width in pixels.")] = 64,
    language: Annotated[str, typer.Option(help="Of the captions: en or zh.")] = "en",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Generate pictures of coloured shapes with captions, to train and test an image captioner on.

    Example: zhixing data pictures shapes --count 4000 --language en
    """
    import json

    from zhixing.core.progress import progress_bar
    from zhixing.data.pictures import make_pictures

    with progress_bar("Drawing", count + unseen) as bar:
        made = make_pictures(out, count, unseen=unseen, seed=seed, side=side, language=language, advance=bar.advance)
    held_out = [thing.caption("en") for thing in made.held_out]
    if as_json:
        print(json.dumps({"train": str(made.train), "unseen": str(made.unseen), "held_out": held_out}))
        return
    print(f"{made.train}: {count:,} pictures\n{made.unseen}: {unseen:,} pictures, each with one of:")
    print(f"  {', '.join(held_out)}")


@app.command("sums")
def sums(
    out: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")],
    seed: Annotated[int, typer.Option(help="Another seed, other sums held out.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write all sums of two two-digit numbers, for recipes/grpo-addition.yaml.

    Example: zhixing data sums sums
    """
    import json

    from zhixing.data.sums import make_sums

    made = make_sums(out, seed)
    if as_json:
        print(json.dumps({"texts": str(made.texts), "train": str(made.train), "held_out": str(made.held_out)}))
        return
    print(f"{made.texts}: texts to learn from\n{made.train}: {made.counts[0]:,} sums to be answered")
    print(f"{made.held_out}: {made.counts[1]:,} others")


@app.command("inspect")
def inspect(
    recipe: Annotated[Path, typer.Argument(help="A recipe file (YAML).")],
    paths: Annotated[list[str] | None, typer.Argument(help="Data, instead of the recipe's data.paths.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a field of the recipe.")
    ] = None,
    batches: Annotated[int, typer.Option(min=1, max=100, help="Show so many batches.")] = 1,
    records: Annotated[
        int | None,
        typer.Option(min=0, help="Draw from the first so many records; 0: all, as training does. Default: 1000 or so."),
    ] = None,
    documents: Annotated[int, typer.Option(help="Show so many documents of each on the terminal.")] = 4,
    html: Annotated[Path | None, typer.Option(metavar="OUT", help="Also write all of it as one HTML page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the exact tokens of a recipe's first batches: which carry loss, where documents begin, what the chat
    template added. A batch without any target is an error.

    Example: zhixing data inspect recipes/lora-instructions.yaml records.json --html batches.html
    """
    import json

    from zhixing.core.files import atomic_write
    from zhixing.core.recipe import load_recipe
    from zhixing.workflows.inspection import inspect_recipe, inspection_page

    loaded = load_recipe(recipe, changes or ())
    if paths:
        loaded.data.paths = list(paths)
    found = inspect_recipe(loaded, batches, records)
    if html is not None:
        atomic_write(html, inspection_page(loaded.name, found))
    if as_json:
        shown = {"records": found.records, "batches": [batch.to_json() for batch in found.batches]}
        print(json.dumps(shown, ensure_ascii=False))
        return
    for number, batch in enumerate(found.batches, 1):
        _show_batch(number, batch, documents)
    if found.note:
        print(found.note)
    if html is not None:
        print(f"All of it: {html}")


def _show_batch(number: int, batch: ShownBatch, most: int) -> None:
    """Prints a batch in colour; where there is none, what carries loss stands in double brackets."""
    from rich.console import Console
    from rich.text import Text

    console, facts = Console(highlight=False, markup=False), batch.facts()
    coloured = console.color_system is not None
    console.print(
        f"Batch {number}: {facts['rows']} row(s), {facts['documents']} documents, {facts['tokens']} tokens,"
        f" {facts['wanted']} carry loss, {facts['template']} are the template's",
        soft_wrap=True,
    )
    legend = Text("  ").append("carries loss", "black on green").append("  ").append("template", "italic blue")
    console.print(legend.append("  read only") if coloured else "  [[carries loss]]  read only")
    for index, document in enumerate(batch.documents[:most], 1):
        line = Text(f"{index:>3} ", style="red")
        before = False
        for token in document.tokens:
            colour = "black on green" if token.wanted else "blue" if token.template else ""
            mark = "" if coloured or token.wanted == before else "[[" if token.wanted else "]]"
            line.append(mark + token.text, f"{colour} italic" if token.template and coloured else colour)
            before = token.wanted
        line.append("]]" if before and not coloured else "")
        console.print(line, soft_wrap=True)
    if len(batch.documents) > most:
        console.print(f"    and {len(batch.documents) - most} more documents (--documents, --html)")


def _print(diagnosis: Diagnosis, show: int) -> None:
    from zhixing.data.doctor import KINDS
    from zhixing.data.shapes.read import describe

    for plan in diagnosis.plans:
        print(plan.source.name)
        if plan.found is not None:
            print(f"  {describe(plan.found)}, confidence {plan.found.confidence:.2f}")
            print(f"  {plan.found.reason}")
        print(f"  {plan.rows:,} rows, {plan.records:,} good records")
    if not diagnosis.findings.total:
        print("\nNothing is wrong that can be seen.")
    for kind, findings in diagnosis.findings.ordered():
        count = diagnosis.findings.counts[kind]
        mend = KINDS[kind].mend
        print(f"\n{count:,} {kind}: {KINDS[kind].title}" + (f"; --fix: {mend}" if mend else "; to be mended by hand"))
        for finding in findings[:show]:
            print(f"  {finding.place}: {finding.message}" + (f"\n      -> {finding.mend}" if finding.mend else ""))
        if count > show:
            print(f"  and {count - show:,} more (--show, --json)")
