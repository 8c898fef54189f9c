"""The forms in which chat templates are published: one or several, in tokenizer_config.json or in files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from zhixing.core.errors import BadInput

TEMPLATE_FILE = "chat_template.jinja"
"""The default template, in a model folder."""

TEMPLATE_FOLDER = "additional_chat_templates"
"""Further ones, each a file NAME.jinja."""

MAX_TEMPLATES = 32


def named_templates(source: object, where: str | None = None) -> dict[str, str]:
    """Returns templates by name, from any of the forms in which they are published.

    Raises:
        BadInput: It is none of them.
    """
    if isinstance(source, str):
        return {"default": source}
    found: dict[str, str] = {}
    if isinstance(source, Mapping):
        found = {key: value for key, value in source.items() if isinstance(key, str) and isinstance(value, str)}
    elif isinstance(source, Sequence):
        for entry in source:
            if isinstance(entry, Mapping):
                name, text = entry.get("name"), entry.get("template")
                if isinstance(name, str) and isinstance(text, str):
                    found[name] = text
    if not found or len(found) != len(source):  # type: ignore[arg-type]
        raise BadInput("the chat template is neither a text nor templates by name", where=where)
    if len(found) > MAX_TEMPLATES:
        raise BadInput(f"{len(found)} chat templates; {MAX_TEMPLATES} are the most that are read", where=where)
    return found


def read_templates(folder: Path, read: Callable[[Path], str]) -> dict[str, str]:
    """Returns the templates that are files of a model folder, by name; none is as good as an empty mapping.

    Args:
        folder: The model folder.
        read: Reads a text file, within bounds.
    """
    found = {"default": folder / TEMPLATE_FILE} if (folder / TEMPLATE_FILE).is_file() else {}
    more = folder / TEMPLATE_FOLDER
    if more.is_dir():
        found.update({path.stem: path for path in sorted(more.glob("*.jinja")) if path.is_file()})
    if len(found) > MAX_TEMPLATES:
        raise BadInput(f"{len(found)} chat templates; {MAX_TEMPLATES} are the most that are read", where=str(more))
    return {name: read(path) for name, path in found.items()}


def published(templates: Mapping[str, str]) -> str | list[dict[str, str]]:
    """Returns templates in the form that tokenizer_config.json has them in, which transformers reads."""
    if list(templates) == ["default"]:
        return templates["default"]
    return [{"name": name, "template": template} for name, template in templates.items()]
