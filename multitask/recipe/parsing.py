"""YAML as people write it: learning rates such as 1e-5 are numbers, and a file's size has a bound."""

from __future__ import annotations

import re
from typing import Any

import yaml

from multitask.errors import UserError

MOST_VALUES = 20_000


class _Loader(yaml.SafeLoader):
    """A safe loader to which 1e-5 is a number: YAML 1.1 reads it as text, and everyone who writes a learning rate means
    a number. A key stands in a mapping once, as YAML has it; PyYAML would take the last one, without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[tuple[str, str]]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                raise ValueError(f"line {key.start_mark.line + 1}: the key {key.value} stands there twice")
            seen |= {(key.tag, key.value)} if isinstance(key, yaml.ScalarNode) else set()
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse_yaml(text: str, where: str) -> Any:
    """What a text of YAML says. Raises UserError for what is no YAML, and for what is too much of it."""
    try:
        tree = yaml.load(text, _Loader)
    # PyYAML's constructors let through whatever Python's own raise: `2024-13-45` is a ValueError.
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{where}: not YAML: {_tab(text) or error}") from error
    _check_size(tree, where)
    return tree


def _tab(text: str) -> str:
    """The hint for a line that is indented by a tab, which YAML does not take; "" where none is."""
    lines = [number for number, line in enumerate(text.splitlines(), start=1) if re.match(r" *\t+ *\S", line)]
    return f"line {lines[0]}: indented by a tab; YAML takes spaces" if lines else ""


def _check_size(tree: Any, where: str) -> None:
    """Raises UserError where a text stands for too many values: aliases (&name, *name) can stand for themselves, or
    each for ten others, so that few lines have no end."""
    left, values = [tree], 0
    while left:
        value, values = left.pop(), values + 1
        if values > MOST_VALUES:
            raise UserError(f"{where}: more than {MOST_VALUES} values, its aliases written out; no recipe has so many")
        if isinstance(value, dict | list):
            left += value.values() if isinstance(value, dict) else value
