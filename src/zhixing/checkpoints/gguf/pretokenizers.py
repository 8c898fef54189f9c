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
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_DEEPSEEK_LETTERS = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ί"
    "ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
_DEEPSEEK_CHINESE = "[一-龥ࠀ-一가-\ud7ff]+"
_DEEPSEEK_LLM = (
    r"[\r\n]", rf"\s?[{_DEEPSEEK_LETTERS}]+", r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+", r"\s+$", _DEEPSEEK_CHINESE,
    r"\p{N}+",
)  # fmt: skip
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
