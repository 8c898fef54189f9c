"""Facts of a run, put into words: names of fields in both languages, units, lists cut for reading (and said so)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from zhixing.core.progress import human_bytes, human_count, human_time
from zhixing.data.problems import KINDS, NOTES
from zhixing.evaluation.run_folder import Run, first_number, number, section

INPUTS_SHOWN = 200
"""Input files listed with their hashes; the rest are counted."""

LABELS: dict[str, tuple[str, str]] = {
    "documents": ("documents", "文档"),
    "bytes": ("bytes", "字节"),
    "characters": ("characters", "字符"),
    "tokens": ("tokens", "词元"),
    "train": ("training part", "训练集"),
    "validation": ("held-out part", "验证集"),
    "validation_fraction": ("held-out share", "验证集比例"),
    "split": ("split by", "划分方式"),
    "bytes_per_token": ("bytes per token", "每词元字节数"),
    "kind": ("kind", "类型"),
    "vocab_size": ("vocabulary", "词表大小"),
    "fingerprint": ("fingerprint", "指纹"),
    "family": ("family", "结构"),
    "parameters": ("parameters", "参数"),
    "layers": ("layers", "层数"),
    "width": ("width", "宽度"),
    "heads": ("heads", "注意力头"),
    "kv_heads": ("key/value heads", "键值头"),
    "head_dim": ("head size", "头维度"),
    "mlp_width": ("feed-forward width", "前馈宽度"),
    "context": ("context", "上下文长度"),
    "tied": ("tied embeddings", "共享词嵌入"),
    "cpu": ("processor", "处理器"),
    "threads": ("threads", "线程"),
    "torch": ("PyTorch", "PyTorch"),
    "python": ("Python", "Python"),
    "device": ("device", "设备"),
    "precision": ("precision", "精度"),
    "memory": ("memory", "内存"),
    "matmul_gflops": ("matmul peak", "矩阵乘峰值"),
    "seconds": ("time", "用时"),
    "steps": ("steps", "步数"),
    "window": ("window", "窗口"),
    "stride": ("stride", "步长"),
    "loss": ("loss", "损失"),
    "epochs": ("epochs", "轮数"),
    "tokens_per_second": ("tokens per second", "每秒词元"),
    "total_seconds": ("time with measuring", "总用时"),
    "peak_memory": ("most memory used", "峰值内存"),
    "paths": ("read from", "来源"),
    "sources": ("files", "文件"),
    "notes": ("notes", "说明"),
    "data_hash": ("hash of all inputs", "数据哈希"),
    "tokenizer": ("tokenizer", "分词器"),
    "processor": ("processor", "处理器"),
    "processors": ("cores", "核心"),
    "matmul": ("products by", "矩阵乘库"),
    "from": ("from", "来自"),
    "bytes_used": ("learned from", "学习文本"),
    "bits_per_byte": ("bits per byte", "每字节比特数"),
    "perplexity": ("perplexity", "困惑度"),
}
"""Names of fields for people; others are shown by their own name."""

SECTIONS = (
    ("data", "Data", "数据"),
    ("tokenizer", "Tokenizer", "分词器"),
    ("model", "Model", "模型"),
    ("training", "Training", "训练"),
    ("evaluation", "Measurement", "评测"),
    ("machine", "Machine", "机器"),
)
APART = {
    ("data", "problems"),
    ("data", "inputs"),
    ("evaluation", "yardsticks"),
    ("evaluation", "yardstick_descriptions"),
}
"""What has a place of its own in the report."""

REPEATED = {("data", "fingerprint"), ("data", "vocab_size"), ("model", "vocab_size"), ("evaluation", "tokenizer")}
"""What another list says already: shown when asked for."""


@dataclass
class Fact:
    """One line of a list of facts."""

    label: str
    chinese: str
    value: str
    long: bool = False


@dataclass
class FactGroup:
    """One list of facts."""

    title: str
    chinese: str
    facts: list[Fact]
    more: list[Fact]
    """Fields that most readers can do without, shown when asked for."""


@dataclass
class ProblemRow:
    """One kind of problem in the data."""

    count: int
    what: str
    harmless: bool
    examples: list[str] = field(default_factory=list)


@dataclass
class Yardstick:
    """One bar: its length is the share of the longest."""

    name: str
    value: float
    share: float
    ours: bool
    description: str


def fact_groups(run: Run) -> list[FactGroup]:
    """Returns the facts by section, unknown fields included, so that nothing that was recorded is hidden."""
    groups = []
    for key, title, chinese in SECTIONS:
        values = section(run.facts, key)
        if key == "training":
            values = {**_course(run), **values}
        facts, more = _flatten(values, key)
        if facts or more:
            groups.append(FactGroup(title, chinese, facts or more, more if facts else []))
    return groups


def _course(run: Run) -> dict[str, Any]:
    """Returns what the metrics and the state say of the training itself."""
    summary = run.summary()
    values = {"steps": summary["step"] or None}
    values |= {key: summary[key] for key in ("tokens", "seconds", "tokens_per_second")}
    available = number(section(section(run.facts, "data"), "train").get("tokens"))
    if available and summary["tokens"]:
        values["epochs"] = summary["tokens"] / available
    if values["tokens_per_second"]:
        values["tokens_per_second"] = round(values["tokens_per_second"])
    return values | {key: run.state.get(key) for key in ("total_seconds", "peak_memory")}


def _flatten(values: dict[str, Any], of: str, prefix: str = "") -> tuple[list[Fact], list[Fact]]:
    """Returns a section's facts: those with a name for people, and the rest."""
    facts: list[Fact] = []
    more: list[Fact] = []
    for key, value in values.items():
        if (of, key) in APART or value is None or value == "" or value == [] or value == {}:
            continue
        label, chinese = LABELS.get(key, (key.replace("_", " "), ""))
        if isinstance(value, dict):
            inner, rest = _flatten(value, of, f"{prefix}{label}: ")
            known = key in LABELS
            facts += inner if known else []
            more += rest if known else [*inner, *rest]
        else:
            text = in_words(key, value)
            fact = Fact(f"{prefix}{label}", "" if prefix else chinese, text, len(text) > 24)
            (facts if key in LABELS and (of, key) not in REPEATED else more).append(fact)
    return facts, more


def data_bytes(run: Run) -> float | None:
    """Returns the bytes of all text, training and held-out, or None when it is not recorded."""
    data = section(run.facts, "data")
    parts = [number(section(data, part).get("bytes")) for part in ("train", "validation")]
    both = sum(part for part in parts if part is not None)
    return first_number(data.get("bytes"), both or None)


def in_words(key: str, value: Any) -> str:
    """Formats a value by the unit that its name implies."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        shown = ", ".join(str(item) for item in value[:12])
        return f"{shown} and {len(value) - 12} more" if len(value) > 12 else shown
    found = number(value)
    if found is None:
        return str(value)
    if key == "seconds" or key.endswith("_seconds"):
        return human_time(found)
    if key in ("bytes", "memory", "peak_memory", "bytes_used", "bytes_seen") or key.endswith("_bytes"):
        return human_bytes(found)
    if key.endswith(("_share", "_fraction")):
        return f"{100 * found:.3g} %"
    if key.endswith("_gflops"):
        return f"{found:,.0f} GFLOP/s"
    if key == "parameters":
        return f"{human_count(found)} ({found:,.0f})"
    if found == int(found) and abs(found) < 1e15:
        return f"{int(found):,}"
    return f"{found:.5g}"


def problem_rows(run: Run) -> list[ProblemRow]:
    """Returns the problems of the data, those that cost text first; accepts the tally with or without examples."""
    recorded = section(section(run.facts, "data"), "problems")
    counts = recorded.get("counts", recorded)
    listed = recorded.get("examples", [])
    examples: dict[str, list[str]] = {}
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, dict):
            line = f":{entry['line']}" if entry.get("line") else ""
            text = f"{entry.get('source', '')}{line}: {entry.get('message', '')}"
            examples.setdefault(str(entry.get("kind")), []).append(text)
    rows = [
        ProblemRow(int(count), KINDS.get(kind, kind), kind in NOTES, examples.get(kind, []))
        for kind, count in (counts.items() if isinstance(counts, dict) else [])
        if (number(count) or 0) > 0
    ]
    return sorted(rows, key=lambda row: row.harmless)


def input_rows(run: Run) -> tuple[list[dict[str, str]], int]:
    """Returns the first input files with their sizes and hashes, and the number of those not listed."""
    rows = []
    for entry in run.inputs[:INPUTS_SHOWN]:
        size = first_number(entry.get("bytes"), entry.get("size"))
        rows.append(
            {
                "path": str(entry.get("path", "")),
                "bytes": human_bytes(size) if size is not None else "",
                "sha256": str(entry.get("sha256", "")),
            }
        )
    return rows, len(run.inputs) - len(rows)


DESCRIBED = {
    "xz": ("xz -9e", "a general compressor, on the held-out text"),
    "unigram": ("unigram", "token frequencies of the training text, add-one smoothed"),
}


def yardstick_bars(run: Run, ours: float | None) -> list[Yardstick]:
    """Returns the yardsticks and the model, highest first; empty when there is nothing to compare with."""
    evaluation = section(run.facts, "evaluation")
    recorded, described = section(evaluation, "yardsticks"), section(evaluation, "yardstick_descriptions")
    bars: list[tuple[str, float, bool, str]] = []
    for key, value in recorded.items():
        short = key.removesuffix("_bits_per_byte")
        name, description = DESCRIBED.get(short, (short.replace("_", " "), ""))
        description = str(described.get(short, description)).replace("`", "")
        figure = number(value)
        if figure is not None:
            bars.append((name, figure, False, description))
    if not bars:
        return []
    if ours is not None:
        bars.append(("this model", ours, True, "on the same held-out text"))
    longest = max(max(value for _, value, _, _ in bars), 1e-9)
    bars.sort(key=lambda bar: -bar[1])
    return [Yardstick(name, value, 100 * value / longest, mine, text) for name, value, mine, text in bars]
