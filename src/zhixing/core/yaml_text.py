"""YAML as people write it: plain values, no key twice, and one message that says where it is broken."""

from __future__ import annotations

from typing import Any

import yaml

from zhixing.core.errors import BadInput


class _Loader(yaml.SafeLoader):
    """Refuses a key that comes twice in a mapping, of which YAML's own loader keeps the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """See `yaml.SafeLoader`."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} comes twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_yaml(text: str, where: str) -> Any:
    """Reads a YAML text.

    Args:
        text: The text.
        where: The file, for the message.

    Raises:
        BadInput: It is not YAML, or a key comes twice; the message names the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError as error:
        raise BadInput("nested beyond all bounds", where=where) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
        mark = getattr(error, "problem_mark", None)
        place = f"{where}:{mark.line + 1}" if mark else where
        # Without a mark the library's text goes over several lines.
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).splitlines()[0]
        raise BadInput(f"not valid YAML: {problem}", where=place) from error
