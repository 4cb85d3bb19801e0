"""YAML loaders that behave the same for every file and every PyYAML release.

Differs from plain PyYAML: merge keys follow https://yaml.org/type/merge.html (PyYAML releases disagree, and its
BaseLoader ignores them), a duplicate key is an error, and `1e-4` is a number.
"""

import re

import yaml
from yaml.constructor import ConstructorError

_MERGE = "tag:yaml.org,2002:merge"
_MAX_MERGED = 100_000  # keys that merging may add to a document; chains of merges grow quadratically


class ValuesLoader(yaml.SafeLoader):
    """Loads plain values: numbers, booleans, null, text, lists and mappings."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._flat: dict[yaml.MappingNode, bool] = {}  # node -> whether it is finished
        self._num_merged = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Replace the merge key of a mapping by the keys that it adds; called before a mapping is built.

        A mapping's own keys override merged ones; in a list of mappings to merge, earlier ones override later ones.

        Raises:
            ConstructorError: a duplicate key, a key that is not text, or an invalid, circular or too large merge.
        """
        if node in self._flat:  # reached through an alias
            if not self._flat[node]:
                raise _error("a mapping that merges itself", node)
            return
        self._flat[node] = False
        own: dict[str, tuple[yaml.ScalarNode, yaml.Node]] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _error("a key that is not text", key)
            if key.value in own:
                raise _error(f"duplicate key {key.value!r}", key)
            own[key.value] = (key, value)
        _, source = own.pop("<<") if "<<" in own and own["<<"][0].tag == _MERGE else (None, None)
        inherited: dict[tuple[str, str], tuple[yaml.ScalarNode, yaml.Node]] = {}
        for mapping in [] if source is None else _to_merge(source):
            self.flatten_mapping(mapping)
            for key, value in mapping.value:
                inherited.setdefault((key.tag, key.value), (key, value))
        for key, _ in own.values():
            inherited.pop((key.tag, key.value), None)
        self._num_merged += len(inherited)
        if self._num_merged > _MAX_MERGED:
            raise _error(f"more than {_MAX_MERGED} merged keys", node)
        node.value = [*inherited.values(), *own.values()]
        super().flatten_mapping(node)  # nothing is left to merge, but `=` is special too
        self._flat[node] = True


class TextLoader(ValuesLoader):
    """Loads every scalar as text, so that a class named `no` or `1` keeps its name; otherwise like `ValuesLoader`."""

    yaml_implicit_resolvers = {"<": [(_MERGE, re.compile("<<$"))]}  # noqa: RUF012 (PyYAML's own spelling)
    yaml_constructors = {}  # noqa: RUF012
    yaml_multi_constructors = {}  # noqa: RUF012


ValuesLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def _to_merge(source: yaml.Node) -> list[yaml.MappingNode]:
    found = []
    for one in source.value if isinstance(source, yaml.SequenceNode) else [source]:
        if not isinstance(one, yaml.MappingNode):
            kind = "list" if isinstance(one, yaml.SequenceNode) else "value"
            raise _error(f"a merge key with a {kind}; expected a mapping or a list of mappings", one)
        found.append(one)
    return found


def _error(problem: str, node: yaml.Node) -> ConstructorError:
    return ConstructorError(None, None, f"found {problem}", node.start_mark)
