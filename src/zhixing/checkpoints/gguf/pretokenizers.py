r"""How words are cut before a byte-level BPE merges them, by the names that GGUF files give (`tokenizer.ggml.pre`).

The patterns are those of the published tokenizer.json files that the names stand for, in the order in which they are
applied; llama.cpp's own (src/llama-vocab.cpp of ggml-org/llama.cpp) cut alike. A name that is not here is refused:
another pattern would give other tokens, and a model that reads them writes worse without anyone knowing why.
"""

from __future__ import annotations

from dataclasses import dataclass

from zhixing.tokenization.patterns import GPT2_PATTERN, QWEN_PATTERN


@dataclass(frozen=True)
class PreTokenizer:
    """One way to cut.

    Attributes:
        patterns: Regular expressions, each of which cuts what the one before has left.
        whole_words: A word that is a token as it stands needs no merges (`ignore_merges` of a tokenizer.json).
        begin: The begin token is added unless the file says otherwise.
        composed: Texts are brought to Unicode's form NFC first.
    """

    patterns: tuple[str, ...]
    whole_words: bool = False
    begin: bool = False
    composed: bool = False


_WORDS = r"[^\r\n\p{L}\p{N}]?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENGLISH = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_LLAMA3 = rf"{_ENGLISH}|{_WORDS}\p{{L}}+|\p{{N}}{{1,3}}|{_SIGNS}|{_BLANKS}"
_TEKKEN = rf"{_WORDS}{_UPPER}*{_LOWER}+|{_WORDS}{_UPPER}+{_LOWER}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_BLANKS}"
_GPT4O = (
    rf"{_WORDS}{_UPPER}*{_LOWER}+{_ENGLISH}?|{_WORDS}{_UPPER}+{_LOWER}*{_ENGLISH}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_BLANKS}"
)
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_CASED = """
    41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C 38E-3A1
    3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A
    1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4
    1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128
    212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D
    A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3
    104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943
""".split()
"""The letters that DeepSeek's first tokenizer calls words: most of those with upper and lower case."""
_DEEPSEEK_WORDS = "".join("-".join(rf"\x{{{code}}}" for code in run.split("-")) for run in _CASED)
_DEEPSEEK_CHINESE = r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+"
_DEEPSEEK_LLM = (
    r"[\r\n]",
    rf"\s?[{_DEEPSEEK_WORDS}]+",
    r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+",
    r"\s+$",
    _DEEPSEEK_CHINESE,
    r"\p{N}+",
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _DEEPSEEK_CHINESE, r"\p{N}")
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"

_DIGITS = PreTokenizer((r"\p{N}", GPT2_PATTERN))
_PLAIN = PreTokenizer((GPT2_PATTERN,))
_LLAMA = PreTokenizer((_LLAMA3,), whole_words=True, begin=True)
_QWEN = PreTokenizer((QWEN_PATTERN,), composed=True)

DEFAULT = PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", GPT2_PATTERN, r"\p{N}+", "[0-9][0-9][0-9]"))
"""What llama.cpp cuts with when a file does not say."""

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "default": DEFAULT,
    **dict.fromkeys(("gpt-2", "phi-2", "mellum", "modern-bert", "exaone4", "gigachat", "a.x-4.0", "jais", "trillion",
                     "granite-docling"), _PLAIN),
    **dict.fromkeys(("olmo", "mpt"), PreTokenizer((GPT2_PATTERN,), composed=True)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _DIGITS),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2", "midm-2.0"), _LLAMA),
    **dict.fromkeys(("dbrx", "smaug-bpe", "chatglm-bpe", "glm4"), PreTokenizer((_LLAMA3,))),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez"), _QWEN),
    **dict.fromkeys(("stablelm2", "hunyuan", "grok-2", "solar-open"), PreTokenizer((QWEN_PATTERN,))),
    "tekken": PreTokenizer((_TEKKEN,), whole_words=True, begin=True),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2"), PreTokenizer((_GPT4O,))),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense", "joyai-llm"), PreTokenizer(_DEEPSEEK3)),
    "deepseek-llm": PreTokenizer(_DEEPSEEK_LLM),
    "deepseek-coder": PreTokenizer(_DEEPSEEK_CODER),
    "falcon": PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", GPT2_PATTERN, "[0-9][0-9][0-9]")),
    **dict.fromkeys(("poro-chat", "bloom", "gpt3-finnish"), PreTokenizer((_BLOOM,))),
    "viking": PreTokenizer((_BLOOM, r"\p{N}")),
}  # fmt: skip
"""Every known way, by name."""


def steps_of(way: PreTokenizer) -> dict[str, object]:
    """Returns the processing steps of a tokenizer.json that cut in this way and spell bytes in GPT-2's alphabet."""
    cuts: list[dict[str, object]] = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in way.patterns
    ]
    cuts.append({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False})
    return {"type": "Sequence", "pretokenizers": cuts}
