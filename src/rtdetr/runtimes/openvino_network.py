"""A network compiled by OpenVINO, with bounded memory for any number of input shapes."""

from collections.abc import Callable
from threading import Lock
from typing import Any

MAX_SHAPES = 32


class CompiledNetwork:
    """A compiled network that is compiled again after `MAX_SHAPES` different input shapes.

    OpenVINO prepares kernels and memory for each shape and keeps them for the lifetime of the compiled network: some MB
    per shape. None of its settings limits this (`CPU_RUNTIME_CACHE_CAPACITY=0` frees only a part).

    Args:
        compile_network: compiles the network; called when the network is first needed, and again after each renewal.
    """

    def __init__(self, compile_network: Callable[[], Any]) -> None:
        self._compile = compile_network
        self._network: Any = None
        self._shapes: set[tuple[int, ...]] = set()
        self._busy = Lock()

    @property
    def current(self) -> Any:
        """The compiled network."""
        with self._busy:
            if self._network is None:
                self._network = self._compile()
            return self._network

    def ready_for(self, shape: tuple[int, ...]) -> Any:
        """Return the compiled network for images of this shape; a new one if the current one has seen too many shapes.

        Requests of an earlier network keep working and keep it alive.
        """
        with self._busy:
            if shape not in self._shapes and len(self._shapes) == MAX_SHAPES:
                self._network, self._shapes = None, set()
            self._shapes.add(shape)
        return self.current
