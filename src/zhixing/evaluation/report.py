"""report.html of a run: one file with everything in it, that opens anywhere and loads nothing.

Here the figures are chosen and put into words; `charts` makes the geometry, `report_facts` the lists, and
templates/ holds the page. All text from the run (samples, file names, messages) is escaped by the template engine, and
the page forbids itself every connection.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhixing.core.files import atomic_write
from zhixing.core.progress import human_count, human_time
from zhixing.evaluation.charts import Chart, Point, loss_chart, percent, short_number, small_chart
from zhixing.evaluation.pages import render
from zhixing.evaluation.report_facts import (
    data_bytes,
    fact_groups,
    in_words,
    input_rows,
    problem_rows,
    yardstick_bars,
)
from zhixing.evaluation.run_folder import Run, number, read_run, section

REPORT = "report.html"

STATES = {
    "preparing": ("preparing", "准备中", "The data is being prepared; training has not begun."),
    "running": ("running", "训练中", "This run is going on; the figures are those of the last record."),
    "finished": ("finished", "已完成", ""),
    "interrupted": ("interrupted", "已中断", "This run was interrupted and can go on where it stopped."),
    "stopped": ("stopped", "已停止", "This run ended without saying so (killed, or the machine stopped)."),
    "failed": ("failed", "失败", "This run failed."),
    "unknown": ("no state", "未知", "This folder does not say how the run ended."),
}


@dataclass
class Card:
    """One headline figure."""

    label: str
    chinese: str
    value: str
    unit: str = ""
    note: str = ""


@dataclass
class Sample:
    """One text that the model wrote."""

    prompt: str
    text: str
    settings: str


def write_report(run_folder: Path) -> Path:
    """Writes (or refreshes) report.html of a run, whatever state it is in.

    Args:
        run_folder: The folder of the run.

    Returns:
        The path of the report.

    Raises:
        MissingResource: The folder is not there, or cannot be written.
        BadInput: It is not a run.
    """
    page = render_report(read_run(run_folder))
    target = run_folder / REPORT
    atomic_write(target, page)
    return target


def render_report(run: Run) -> str:
    """Returns the page of a run as HTML."""
    return render("report.html", _content(run))


def _content(run: Run) -> dict[str, Any]:
    summary = run.summary()
    inputs, more_inputs = input_rows(run)
    bits = summary["bits_per_byte"]
    bars = yardstick_bars(run, bits)
    reason = str(run.state.get("reason") or "")
    state, state_chinese, banner = STATES[run.status]
    return {
        "name": run.name,
        "folder": str(run.folder),
        "language": "zh" if mostly_chinese(_sample_text(run)) else "en",
        "state": state,
        "state_chinese": state_chinese,
        "banner": banner,
        "reason": reason[:1].upper() + reason[1:],
        "can_resume": run.status in ("interrupted", "stopped", "failed"),
        "sentence": _sentence(run, summary),
        "updated": run.updated.strftime("%Y-%m-%d %H:%M") if run.updated else "",
        "hero": _hero(summary, bars),
        "cards": _cards(run, summary),
        "progress": _progress(summary) if run.status in ("running", "interrupted", "stopped") else None,
        "loss_charts": _loss_charts(run),
        "of_tokens": run.of_tokens,
        "small_charts": _small_charts(run),
        "validation_columns": [name.replace("_", " ") for name in _columns(run)],
        "validations": [_validation_row(record, _columns(run)) for record in run.validation],
        "scores": _score_rows(run),
        "predictions": _predictions(run),
        "written": _written(run),
        "bars": bars,
        "samples": _samples(run),
        "groups": fact_groups(run),
        "problems": problem_rows(run),
        "recipe": _recipe_lines(run.recipe),
        "events": _events(run),
        "faults": run.faults,
        "inputs": inputs,
        "more_inputs": more_inputs,
        "inputs_file": "facts.json" if "inputs" in section(run.facts, "data") else "shards/inputs.json",
    }


def _sentence(run: Run, summary: dict[str, Any]) -> str:
    """Says in one sentence what this run is."""
    model = section(run.facts, "model")
    words = []
    if summary["parameters"]:
        layers = number(model.get("layers"))
        depth = f"{layers:.0f}-layer " if layers else ""
        family = f"{model['family']} " if isinstance(model.get("family"), str) else ""
        words.append(f"a {depth}{family}model of {human_count(summary['parameters'])} parameters")
    if size := data_bytes(run):
        words.append(f"trained on {in_words('bytes', size)} of text")
    if words and summary["seconds"]:
        words.append(f"in {human_time(summary['seconds'])}")
    sentence = " ".join(words)
    return sentence[:1].upper() + sentence[1:] + "." if sentence else ""


def _hero(summary: dict[str, Any], bars: Iterable[Any]) -> Card:
    """The one figure: bits per byte, else the loss, else that there is none yet."""
    bits = summary["bits_per_byte"]
    if bits is not None:
        gains = []
        for bar in bars:
            if not bar.ours and bar.value > 0:
                change = 100 * (1 - bits / bar.value)
                gains.append(f"{abs(change):.0f} % {'below' if change >= 0 else 'above'} {bar.name}")
        return Card("bits per byte", "每字节比特数", f"{bits:.3f}", "", ", ".join(reversed(gains)))
    for name, value in summary["measures"].items():
        return Card(name.replace("_", " "), "", f"{value:.4f}", note="on the held-out records")
    if summary["validation_loss"] is not None:
        return Card("validation loss", "验证损失", f"{summary['validation_loss']:.3f}", note="nats per token")
    if summary["train_loss"] is not None:
        return Card(
            "training loss", "训练损失", f"{summary['train_loss']:.3f}", note="nats per token; not validated yet"
        )
    return Card("bits per byte", "每字节比特数", "–", note="nothing is measured yet")


def _cards(run: Run, summary: dict[str, Any]) -> list[Card]:
    tokenizer, machine = section(run.facts, "tokenizer"), section(run.facts, "machine")
    model = section(run.facts, "model")
    cards = []
    if summary["perplexity"] is not None:
        size = number(tokenizer.get("vocab_size"))
        kind = str(tokenizer.get("kind", "")) or "its tokenizer"
        name = f"per token of {kind}" + (f", {size:,.0f} tokens" if size else "")
        cards.append(Card("perplexity", "困惑度", f"{summary['perplexity']:.4g}", "", name))
    if summary["validation_loss"] is not None and summary["bits_per_byte"] is not None:
        at = (
            f"nats per token, best at step {summary['best_step']:,}"
            if _is_count(summary["best_step"])
            else "nats per token"
        )
        cards.append(Card("validation loss", "验证损失", f"{summary['validation_loss']:.4f}", "", at))
    if summary["parameters"]:
        shape = [f"{model[key]} {word}" for key, word in (("layers", "layers"), ("width", "wide")) if key in model]
        cards.append(Card("parameters", "参数量", *_count_and_unit(summary["parameters"]), ", ".join(shape)))
    if summary["tokens"]:
        done = f"step {summary['step']:,}" + (f" of {summary['steps']:,}" if _is_count(summary["steps"]) else "")
        cards.append(Card("tokens seen", "训练词元", *_count_and_unit(summary["tokens"]), done))
    if summary["seconds"]:
        speed = summary["tokens_per_second"]
        note = f"{speed:,.0f} tokens/s" if speed else ""
        cards.append(Card("time", "用时", human_time(summary["seconds"]), "", note))
    if summary["matmul_share"] is not None:
        peak = number(machine.get("matmul_gflops"))
        note = f"of {peak:,.0f} GFLOP/s measured" if peak else "of the measured peak"
        cards.append(Card("of matmul peak", "算力利用率", f"{100 * summary['matmul_share']:.0f}", "%", note))
    return cards


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _count_and_unit(value: float) -> tuple[str, str]:
    figure, _, unit = human_count(value).partition(" ")
    return figure, unit


def _progress(summary: dict[str, Any]) -> float | None:
    if not _is_count(summary["steps"]) or summary["steps"] < 1:
        return None
    return min(100.0, 100.0 * int(summary["step"]) / int(summary["steps"]))


def _points(records: list[dict[str, Any]], key: str) -> list[Point]:
    return [(record["step"], value) for record in records if (value := number(record.get(key))) is not None]


def _loss_charts(run: Run) -> list[Chart]:
    train = _points(run.train, "loss")
    validation = [
        (float(record["step"]), loss, number(record.get("bits_per_byte")))
        for record in run.validation
        if (loss := number(record.get("loss"))) is not None
    ]
    best = run.best or {}
    step, loss = number(best.get("step")), number(best.get("loss"))
    mark = (step, loss) if step is not None and loss is not None else None
    # The last event of a step is its mark: a run that was interrupted and resumed at one step shows "resumed".
    events = {
        step: str(event.get("event", ""))
        for event in run.events
        if event.get("event") != "finished" and (step := number(event.get("step"))) is not None
    }
    charts = [loss_chart(train, validation, mark, list(events.items()), axis) for axis in ("linear", "log")]
    return [chart for chart in charts if chart is not None]


def _small_charts(run: Run) -> list[tuple[str, str, Chart]]:
    speed, share = _points(run.train, "tokens_per_second"), _points(run.train, "matmul_share")
    if not any(value for _, value in share):  # the peak was not measured
        share = []
    made = (
        ("learning rate, share of peak", "学习率", small_chart(
            "Learning rate over steps", "share of peak", _points(run.train, "learning_rate"))),
        ("gradient norm", "梯度范数", small_chart(
            "Gradient norm over steps", "norm", _points(run.train, "gradient_norm"), robust=True)),
        ("tokens per second", "每秒词元", small_chart(
            "Tokens per second over steps", "tokens/s", speed, y_format=short_number)),
        ("share of matmul peak", "算力利用率", small_chart(
            "Share of the matmul peak over steps", "share", share, top=1.0, y_format=percent)),
    )  # fmt: skip
    found = [(title, chinese, chart) for title, chinese, chart in made if chart is not None]
    return [*found, *_own_charts(run)]


STANDARD = frozenset(
    {"kind", "step", "loss", "learning_rate", "gradient_norm", "tokens", "seconds", "tokens_per_second", "matmul_share",
     "bits_per_byte", "perplexity", "written"}
)  # fmt: skip
"""Figures that have a place of their own in the report."""

IN_CHINESE = {
    "reward": "奖励", "entropy": "熵", "kl": "KL 散度", "answer tokens": "回答长度",
    "finished": "完成率", "clipped": "裁剪率", "undecided": "无差异组", "margin": "奖励差",
    "pair accuracy": "偏好正确率", "chosen logprob": "优选对数概率", "rejected logprob": "劣选对数概率",
    "agreement": "一致率",
}  # fmt: skip


def _own_charts(run: Run) -> list[tuple[str, str, Chart]]:
    """Returns a chart of each figure that the objective itself records: of every step, and of what is held out."""
    found = []
    for records, held_out in ((run.train, False), (run.validation, True)):
        for key in dict.fromkeys(key for record in records for key in record if key not in STANDARD):
            name = key.replace("_", " ")
            title, chinese = name + (", held out" if held_out else ""), IN_CHINESE.get(name, "")
            chart = small_chart(f"{title} over steps", name, _points(records, key), zero=False)
            if chart is not None:
                found.append((title, chinese + ("（留出）" if held_out and chinese else ""), chart))
    return found


def _written(run: Run) -> list[dict[str, str]]:
    """Returns what the network wrote while it learned, of the first, the middle and the last measurement."""
    records = [record for record in run.validation if isinstance(record.get("written"), list)]
    chosen = dict.fromkeys((0, len(records) // 2, len(records) - 1)) if records else ()
    rows = []
    for index in chosen:
        for one in records[index]["written"]:
            if isinstance(one, dict):
                reward = number(one.get("reward"))
                rows.append(
                    {
                        "step": f"{records[index]['step']:,}",
                        "prompt": str(one.get("prompt", "")),
                        "text": str(one.get("text", "")),
                        "reward": "–" if reward is None else f"{reward:g}",
                    }
                )
    return rows


def _columns(run: Run) -> list[str]:
    """Returns the figures that validations recorded, in their order; those of running text where there are none."""
    first: dict[str, Any] = run.validation[0] if run.validation else {}
    own = [key for key in first if key not in ("kind", "step", "tokens", "seconds", "written")]
    return own or ["loss", "bits_per_byte", "perplexity"]


def _validation_row(record: dict[str, Any], columns: list[str]) -> list[str]:
    cells = [f"{record['step']:,}"]
    for key in columns:
        value = number(record.get(key))
        cells.append("–" if value is None else format(value, ".4g" if key == "perplexity" else ".4f"))
    seconds = number(record.get("seconds"))
    return [*cells, human_time(seconds) if seconds is not None else "–"]


def _score_rows(run: Run) -> list[dict[str, str]]:
    """Returns the measures of a finished run on records, each with its interval and its signature."""
    evaluation = section(run.facts, "evaluation")
    recorded = evaluation.get("scores")
    by_name = {
        str(one["measure"]): one
        for one in (recorded if isinstance(recorded, list) else [])
        if isinstance(one, dict) and "measure" in one
    }
    rows = []
    for name, entry in section(evaluation, "measures").items():
        value = number(entry)
        known = by_name.get(name, {})
        interval = section(known, "interval")
        low, high = number(interval.get("low")), number(interval.get("high"))
        rows.append(
            {
                "name": str(name).replace("_", " "),
                "value": "–" if value is None else f"{value:.4f}",
                "interval": "" if low is None or high is None else f"{low:.4f} to {high:.4f}",
                "signature": str(known.get("signature", "")),
            }
        )
    return rows


def _predictions(run: Run) -> list[dict[str, str]]:
    recorded = run.facts.get("predictions")
    rows = [entry for entry in recorded if isinstance(entry, dict)] if isinstance(recorded, list) else []
    return [{key: str(row.get(key, "")) for key in ("predicted", "right")} for row in rows]


def _sample_records(run: Run) -> list[dict[str, Any]]:
    recorded = run.facts.get("samples")
    return [entry for entry in recorded if isinstance(entry, dict)] if isinstance(recorded, list) else []


def _sample_text(run: Run) -> str:
    return "".join(str(entry.get("text", "")) for entry in _sample_records(run))


def _samples(run: Run) -> list[Sample]:
    """Takes the prompt off the text where it is repeated there, so that it can be set apart."""
    samples = []
    for entry in _sample_records(run):
        prompt, text = str(entry.get("prompt") or ""), str(entry.get("text") or "")
        settings = ", ".join(
            f"{key.replace('_', ' ')} {in_words(key, value)}"
            for key, value in entry.items()
            if key not in ("prompt", "text") and value is not None
        )
        samples.append(Sample(prompt, text.removeprefix(prompt), settings))
    return samples


def _events(run: Run) -> list[dict[str, str]]:
    rows = []
    for event in run.events:
        step = number(event.get("step"))
        kind = str(event.get("event", ""))
        rows.append(
            {
                "step": f"{step:,.0f}" if step is not None else "",
                "event": kind,
                "message": str(event.get("message", "")),
                "grave": "grave" if kind in ("spike", "nan", "failed", "diverged") else "",
            }
        )
    return rows


def _recipe_lines(text: str) -> list[tuple[str, str, str]]:
    """Splits YAML into (indent, key with its colon, rest) per line, for a little colour."""
    lines = []
    for line in text.rstrip("\n").split("\n") if text else []:
        bare = line.lstrip(" -")
        key, colon, rest = bare.partition(":")
        is_key = bool(colon) and (not rest or rest.startswith(" ")) and " " not in key
        indent = line[: len(line) - len(bare)]
        lines.append((indent, key + colon, rest) if is_key else (indent, "", bare))
    return lines


def mostly_chinese(text: str) -> bool:
    """Tells whether a text has more Chinese characters than it has Latin letters."""
    chinese = sum("\u4e00" <= character <= "\u9fff" for character in text)
    return chinese > sum(character.isascii() and character.isalpha() for character in text)
