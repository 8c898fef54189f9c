"""Likely personal data: addresses of mail, telephone numbers, identity and card numbers, network addresses, secrets.

Patterns with checks (Luhn's sum, the check digit of Chinese identity numbers, reserved ranges), so that most numbers of
a text are left alone. Names and postal addresses are not found by patterns, and are not looked for here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

from zhixing.data.doctor.findings import Flaw

_EXAMPLES = (
    "example.com",
    "example.org",
    "example.net",
    "example.edu",
    "test.com",
    "domain.com",
    "email.com",
    ".invalid",
)
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def _is_mail(found: str) -> bool:
    name, _, domain = found.lower().partition("@")
    if name in ("git", "hg", "noreply", "no-reply"):  # accounts of machines
        return False
    # One letter before and behind the @ stands for any address.
    return len(name.strip(".")) > 1 and len(domain.partition(".")[0]) > 1 and not domain.endswith(_EXAMPLES)


def _is_identity(found: str) -> bool:
    month, day = int(found[10:12]), int(found[12:14])
    check = "10X98765432"[sum(int(digit) * weight for digit, weight in zip(found, _WEIGHTS, strict=False)) % 11]
    return 1 <= month <= 12 and 1 <= day <= 31 and found[6:8] in ("19", "20") and found[-1].upper() == check


_CARD = re.compile(r"4\d{15}|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|6(?:011|5\d\d)\d{12}|62\d{14,17}|35\d{14}")
_GROUPS = re.compile(r"\d+|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{5}")


def _is_card(found: str) -> bool:
    digits = [int(character) for character in found if character.isdigit()]
    if not _CARD.fullmatch(re.sub(r"\D", "", found)) or not _GROUPS.fullmatch(found) or len(set(digits)) < 2:
        return False
    doubled = [
        digit if place % 2 == 0 else (2 * digit - 9 if digit > 4 else 2 * digit)
        for place, digit in enumerate(digits[::-1])
    ]
    return sum(doubled) % 10 == 0


def _is_address(found: str) -> bool:
    try:
        address = ipaddress.ip_address(found)
    except ValueError:
        return False
    return address.is_global and not found.startswith(("1.1.1.1", "8.8.", "1.2.3.4"))


def _is_iban(found: str) -> bool:
    """Checks the remainder that an international account number leaves (ISO 13616)."""
    bare = found.replace(" ", "")
    return 15 <= len(bare) <= 34 and int("".join(str(int(one, 36)) for one in bare[4:] + bare[:4])) % 97 == 1


def _always(found: str) -> bool:
    return True


def _is_phone(found: str) -> bool:
    digits = re.sub(r"\D", "", found)
    most = 13 if found.lstrip("+").isdigit() else 15  # without any gap, more digits are rather a sum
    plausible = 9 <= len(digits) <= most and len(set(digits)) > 3 and digits not in "12345678901234"
    return plausible and "555" not in digits[:6]


PATTERNS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("secret", re.compile(r"\b(?:sk-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36,}|xox[bap]-[\w-]{20,}|"
                          r"hf_[A-Za-z0-9]{30,})\b|-----BEGIN [A-Z ]*PRIVATE KEY-----"), _always),
    # ASCII only: Chinese text stands directly before and behind an address.
    ("email", re.compile(r"(?<![\w.+-])[\w.+-]+@(?:[\w-]+\.)+[A-Za-z]{2,}(?![\w-])", re.ASCII), _is_mail),
    ("id", re.compile(r"(?<![\dA-Za-z])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![\dA-Za-z])"),
     _is_iban),
    ("id", re.compile(r"(?<![\dA-Za-z])[1-9]\d{16}[\dXx](?![\dA-Za-z])"), _is_identity),
    ("id", re.compile(r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])"), _always),
    ("card", re.compile(r"(?<![\d.])\d(?:[ -]?\d){12,18}(?![\d.])"), _is_card),
    ("phone", re.compile(r"(?<![\d.=*/+-])(?:\+?86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?![\dA-Za-z_]|\.\d)"), _is_phone),
    ("phone", re.compile(r"(?<![\w.])\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}(?!\w)",
                         re.ASCII), _is_phone),
    ("phone", re.compile(r"(?<![\w.])(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[.-]\d{4}(?![\w-])", re.ASCII), _is_phone),
    ("phone", re.compile(r"(?<![\w.-])(?:\(0(?:10|2\d|[3-9]\d\d)\)[- ]?|0(?:10|2\d|[3-9]\d\d)[- ])"
                         r"[2-8]\d{2,3}[- ]?\d{4}(?![\w-])", re.ASCII), _is_phone),
    ("ip", re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)", re.ASCII), _is_address),
    ("ip", re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{1,4}:){2,7}:?[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4}){0,5}"
                      r"(?![\w:]|\.\d)", re.ASCII), _is_address),
)  # fmt: skip
"""What is looked for: the name that replaces it, its pattern, and a check of what the pattern found."""
_NUMBERED = re.compile(
    r"(?:\b(?:v|ver|versions?|releases?|builds?|chapters?|sections?|python|driver|firmware)\.?|版本号?|版|章|节|第)[\s:：/]{0,3}\Z",
    re.IGNORECASE,
)
"""What stands before a version or a chapter, which is written as a network address is."""
_CANDIDATE = re.compile(r"[\d@]|-----BEGIN")
"""What every pattern has in common, to pass over most texts at once."""
NAMES = {
    "secret": "a key or secret",
    "email": "an address of mail",
    "id": "an identity or account number",
    "card": "a card number",
    "phone": "a telephone number",
    "ip": "a network address",
}


def mask(text: str, flaws: list[Flaw], where: str) -> str:
    """Replaces likely personal data by its kind, and notes what was found; messages show only the beginning of it."""
    if not _CANDIDATE.search(text):
        return text
    for name, pattern, check in PATTERNS:

        def replaced(match: re.Match[str], name: str = name, check: Callable[[str], bool] = check) -> str:
            if not check(match[0]) or (name == "ip" and _NUMBERED.search(match.string, 0, match.start())):
                return match[0]
            flaws.append(Flaw("personal", f"{where} holds {NAMES[name]}: {match[0][:4]}...", f"write <{name}>"))
            return f"<{name}>"

        text = pattern.sub(replaced, text)
    return text
