"""A network compiled by OpenVINO, whose memory stays bounded however many shapes of input it is given."""

from collections.abc import Callable
from threading import Lock
from typing import Any

MOST_SHAPES = 32


class CompiledNetwork:
    """A compiled network that is compiled anew after `MOST_SHAPES` different shapes of input.

    OpenVINO prepares kernels and memory for each shape and keeps them as long as the compiled network lives: some MB
    for each network size. None of its settings bounds that (`CPU_RUNTIME_CACHE_CAPACITY=0` keeps a good part).

    Args:
        compile_network: compiles the network; called when it is first needed, and for each renewal.
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
        """The compiled network for images of this shape: a new one if the one before has seen too many others.

        Requests of an earlier one go on working, and keep it alive.
        """
        with self._busy:
            if shape not in self._shapes and len(self._shapes) == MOST_SHAPES:
                self._network, self._shapes = None, set()
            self._shapes.add(shape)
        return self.current
