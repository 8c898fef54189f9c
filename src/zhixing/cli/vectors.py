"""`zhixing vectors`: train word vectors, look at them, and write them in other formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from zhixing.models.vectors import WordVectors

app = typer.Typer(
    help="Word vectors: train (word2vec, fastText), nearest words, analogies.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

VECTORS = "A folder of `vectors train`, a word2vec file (text or binary), a GloVe file, or a fastText model."
TOP = typer.Option("--top", "-n", min=1, help="Words to show.")


@app.command("train")
def train(
    texts: Annotated[
        list[str], typer.Argument(metavar="TEXT...", help="Files, folders, globs (.txt .jsonl .csv .parquet ...).")
    ],
    out: Annotated[Path, typer.Argument(help="A folder; or a file: .txt or .vec (text), .bin (binary).")],
    kind: Annotated[str, typer.Option(help="word2vec or fasttext.")] = "word2vec",
    size: Annotated[int, typer.Option(help="Numbers per vector.")] = 100,
    window: Annotated[int, typer.Option(help="Words to each side that count as context.")] = 5,
    min_count: Annotated[int, typer.Option(help="Words that occur less often get no vector.")] = 5,
    epochs: Annotated[int, typer.Option(help="Passes over the text.")] = 5,
    cbow: Annotated[bool, typer.Option("--cbow", help="Predict words from their context, not the other way.")] = False,
    lowercase: Annotated[bool, typer.Option("--lowercase", help="Take 'The' and 'the' for one word.")] = False,
    tokenizer: Annotated[
        str | None, typer.Option(help="Cut text by this tokenizer (a model folder or tokenizer.json).")
    ] = None,
    field: Annotated[str | None, typer.Option(help="The column or key of records that holds the text.")] = None,
    seed: Annotated[int, typer.Option(help="With one worker, the same seed gives the same vectors.")] = 1,
    workers: Annotated[int, typer.Option(help="Threads; with several, no two runs are the same.")] = 1,
) -> None:
    """Train word vectors on text.

    Words are what stands between spaces and punctuation; every Chinese character is a word of its own, unless a
    tokenizer cuts the text.

    Example: zhixing vectors train texts/ vectors/mine --size 100 --epochs 5
    """
    from zhixing.checkpoints.vectors import open_vectors, save_vectors
    from zhixing.core.errors import BadInput, unknown_name
    from zhixing.core.progress import is_quiet
    from zhixing.data.problems import Problems
    from zhixing.data.readers import read_documents
    from zhixing.data.sources import find_sources
    from zhixing.tokenization.tokenizer import Tokenizer
    from zhixing.training.word_vectors import Segmenter, TokenWords, VectorOptions, Words, train_vectors

    if kind not in ("word2vec", "fasttext"):
        raise unknown_name("kind of word vectors", kind, ("word2vec", "fasttext"), where="--kind")
    if tokenizer is not None and lowercase:
        raise BadInput("--lowercase and --tokenizer contradict each other: the tokenizer decides", where="--lowercase")
    if out.exists():
        raise BadInput("there is something at this path already", where=str(out), remedy="choose another path")
    if not out.parent.is_dir():
        out.parent.mkdir(parents=True)
    options = VectorOptions(
        kind="fasttext" if kind == "fasttext" else "word2vec", size=size, window=window, min_count=min_count,
        epochs=epochs, skip_gram=not cbow, seed=seed, workers=workers,
    )  # fmt: skip
    segment: Segmenter = Words(lowercase) if tokenizer is None else TokenWords(Tokenizer.load(tokenizer))
    problems = Problems()
    sources = find_sources(texts, problems)
    documents = (document.text for document in read_documents(sources, problems, field=field))
    vectors = train_vectors(documents, segment, options)
    notes = save_vectors(vectors, out)
    open_vectors(out)
    if not is_quiet():
        facts = vectors.facts
        typer.echo(
            f"{len(vectors):,} vectors of {vectors.size} numbers in {out}, from {facts['trained_words']:,} words;"
            f" {facts['different_words']} different\ncut into {segment.description}",
            err=True,
        )
        for line in [*notes, *problems.summary()]:
            typer.echo(line, err=True)


@app.command("nearest")
def nearest(
    path: Annotated[Path, typer.Argument(metavar="VECTORS", help=VECTORS)],
    word: Annotated[str, typer.Argument(help="The word.")],
    top: Annotated[int, TOP] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the words that are used most like a word, with the cosine between the vectors.

    Example: zhixing vectors nearest vectors/mine 月
    """
    _print(_open(path).nearest(word, top), as_json)


@app.command("analogy")
def analogy(
    path: Annotated[Path, typer.Argument(metavar="VECTORS", help=VECTORS)],
    first: Annotated[str, typer.Argument(help="As in: man ...")],
    second: Annotated[str, typer.Argument(help="... is to king ...")],
    third: Annotated[str, typer.Argument(help="... as woman is to?")],
    top: Annotated[int, TOP] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Complete "FIRST is to SECOND as THIRD is to ...": the words closest to SECOND - FIRST + THIRD.

    Example: zhixing vectors analogy vectors/mine man king woman
    """
    _print(_open(path).analogy([second, third], [first], top), as_json)


@app.command("show")
def show(
    path: Annotated[Path, typer.Argument(metavar="VECTORS", help=VECTORS)],
    top: Annotated[int, TOP] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show how many vectors there are, how they were trained, and the first words.

    Example: zhixing vectors show vectors/mine
    """
    import json

    vectors = _open(path)
    if as_json:
        print(json.dumps({**_facts(vectors), "first": list(vectors.words[:top])}, ensure_ascii=False))
        return
    for key, value in _facts(vectors).items():
        print(f"{key.replace('_', ' '):<16} {value:,}" if isinstance(value, int) else f"{key:<16} {value}")
    for row, word in enumerate(vectors.words[:top]):
        count = f"  {int(vectors.counts[row]):>10,}" if vectors.counts is not None else ""
        print(f"{row + 1:>6}  {word}{count}")


@app.command("convert")
def convert(
    path: Annotated[Path, typer.Argument(metavar="VECTORS", help=VECTORS)],
    out: Annotated[Path, typer.Argument(help="A folder; or a file: .txt or .vec (text), .bin (binary).")],
) -> None:
    """Write vectors in another format.

    Example: zhixing vectors convert GoogleNews-vectors.bin vectors/news
    """
    from zhixing.checkpoints.vectors import save_vectors
    from zhixing.core.errors import BadInput

    if out.exists():
        raise BadInput("there is something at this path already", where=str(out), remedy="choose another path")
    vectors = _open(path)
    for note in save_vectors(vectors, out):
        typer.echo(note, err=True)
    typer.echo(f"{len(vectors):,} vectors of {vectors.size} numbers in {out}", err=True)


def _open(path: Path) -> WordVectors:
    from zhixing.checkpoints.vectors import open_vectors

    return open_vectors(path)


def _facts(vectors: WordVectors) -> dict[str, object]:
    subwords = {} if vectors.subwords is None else {"subword_buckets": len(vectors.subwords.vectors)}
    return {"words": len(vectors), "size": vectors.size, **subwords, **vectors.facts}


def _print(found: list[tuple[str, float]], as_json: bool) -> None:
    import json

    if as_json:
        print(json.dumps([{"word": word, "cosine": round(cosine, 6)} for word, cosine in found], ensure_ascii=False))
        return
    for word, cosine in found:
        print(f"{cosine:7.4f}  {word}")
