"""Registries: the decoders, attention mechanisms, readers and so on, by name. One decorator adds one."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any, Generic, TypeVar

from captioner.errors import CaptionerError, OptionError

T = TypeVar("T")

PLUGINS = "captioner.plugins"
"""The entry-point group of packages whose modules register parts. They are imported when a name is not found and when
names are listed."""


class Registry(Generic[T]):
    """Parts of one kind by name, in the order in which they were registered.

    >>> SHAPES: Registry[type] = Registry("shape")
    >>> @SHAPES.register("circle")
    ... class Circle: ...
    >>> SHAPES["circle"] is Circle
    True

    Args:
        kind: what the parts are called in messages: "decoder", "attention mechanism".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._parts: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that adds a part under a name.

        Raises:
            ValueError: the name is taken by another part.
        """

        def add(part: T) -> T:
            if self._parts.setdefault(name, part) is not part:
                raise ValueError(f"a {self.kind} is called '{name}' already: {self._parts[name]!r}")
            return part

        return add

    def __getitem__(self, name: str) -> T:
        """The part of that name.

        Raises:
            OptionError: there is none, the message lists the names; or an installed plug-in cannot be imported.
        """
        try:
            if name not in self._parts:
                _import_plugins()
            return self._parts[name]
        except (KeyError, TypeError):  # a name from a file may be of any type
            raise OptionError(
                f"no {self.kind} is called {name!r}; there are {', '.join(self._parts)} "
                "(import the module that registers another)"
            ) from None

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        if name not in self._parts:
            _import_plugins()
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        _import_plugins()
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def items(self) -> Iterator[tuple[str, T]]:
        """Names and parts, in order."""
        _import_plugins()
        return iter(list(self._parts.items()))

    def unregister(self, name: str) -> None:
        """Remove a part, for tests."""
        self._parts.pop(name, None)


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A part that is built from a configuration.

    Attributes:
        config: the configuration's class, a frozen keyword-only dataclass of plain values.
        build: the class or function that makes the part.
    """

    config: Callable[..., Any]
    build: T


class ConfiguredRegistry(Registry[Entry[T]]):
    """A registry of parts that have configuration classes of their own.

    >>> SHAPES: ConfiguredRegistry[type] = ConfiguredRegistry("shape")
    >>> @SHAPES.register_with("circle", CircleConfig)
    ... class Circle: ...
    """

    def register_with(self, name: str, config: Callable[..., Any]) -> Callable[[T], T]:
        """A decorator that adds a part and its configuration class under a name."""

        def add(part: T) -> T:
            self.register(name)(Entry(config, part))
            return part

        return add

    def config_of(self, values: Mapping[str, Any], *, default: str | None = None) -> Any:
        """The configuration of a part, of plain values; ``kind`` among them is its name, or else it is ``default``.

        Raises:
            OptionError: no such name, or an option out of its range.
            KeyError: there is no ``kind``.
            TypeError: the configuration has no such option.
        """
        options = dict(values)
        kind = options.pop("kind") if default is None else options.pop("kind", default)
        return self[kind].config(**options)

    def values_of(self, config: Any) -> dict[str, Any]:
        """The inverse of `config_of`. Raises OptionError as `name_of`."""
        return {"kind": self.name_of(config), **plain_values(config)}

    def name_of(self, config: Any) -> str:
        """The name under which the class of a configuration is registered.

        Raises:
            OptionError: it is not.
        """
        for name, entry in self.items():
            if entry.config is type(config):
                return name
        raise OptionError(f"no {self.kind} has a configuration of the type {type(config).__name__}")


def plain_values(config: Any) -> dict[str, Any]:
    """The options of a configuration, a dataclass, for JSON; tables that are empty by default and here are left out."""
    empty = {option.name for option in fields(config) if option.default_factory is dict}
    return {name: value for name, value in asdict(config).items() if value or name not in empty}


@cache
def _import_plugins() -> None:
    """Import the modules that installed packages name, once.

    Raises:
        OptionError: one of them raises what is no error of ours.
    """
    from importlib.metadata import entry_points

    for plugin in entry_points(group=PLUGINS):
        try:
            plugin.load()
        except CaptionerError:
            raise
        except Exception as error:  # a stranger's code
            package = f" of the package {plugin.dist.name}" if plugin.dist else ""
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise OptionError(
                f"the plug-in '{plugin.name}'{package} cannot be imported ({reason})", remedy="mend it or uninstall it"
            ) from error
