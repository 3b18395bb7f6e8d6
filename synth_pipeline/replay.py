"""A GPU's work, recorded once and replayed as one call (CUDA graphs).

A step of Stable Diffusion 1.5 is some thousands of small kernels. A processor hands them over more
slowly than a large GPU works them off: one concept took as long as eight (docs/decisions/0018).
Replayed, they start each other.
"""

import logging
from collections.abc import Callable
from functools import cache

import torch

from synth_pipeline.loaded_base import is_out_of_memory

logger = logging.getLogger("synth_pipeline")

#: Calls that run kernel by kernel, in which libraries choose their kernels and make their tables.
_WARM = 3


class Replay:
    """Calls a computation, or replays its kernels; the result is the same.

    Shapes and dtypes decide which recording is replayed. What the computation reads or writes
    beside its inputs has to stay where it is in the memory, and nothing in it may wait for the GPU:
    a computation of which a recording fails goes on kernel by kernel, and this is said.

    Args:
        body: from tensors to one tensor; on a processor it is simply called.
    """

    def __init__(self, body: Callable[..., torch.Tensor]) -> None:
        self._body = body
        self._records: dict[tuple, _Record] = {}
        # Recordings of several shapes take turns in the same memory.
        self._pool = torch.cuda.graph_pool_handle() if torch.cuda.is_available() else None
        self._possible = True

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """What the body gives; of a replay, a copy of it."""
        if not (inputs[0].is_cuda and self._possible):
            return self._body(*inputs)
        alike = tuple((each.shape, each.dtype) for each in inputs)
        if alike not in self._records:
            self._records[alike] = _Record(self._body)
        record = self._records[alike]
        if record.warm < _WARM:
            return record.call(inputs)
        if record.graph is None:
            try:
                record.capture(inputs, self._pool)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                self._possible = False
                self._records.clear()
                reason = str(error).partition("\n")[0]
                logger.warning("the GPU's work goes on kernel by kernel: not recorded, %s", reason)
                return self._body(*inputs)
        return record.replay(inputs)


@cache
def _stream() -> torch.cuda.Stream:
    """One for all calls.

    Gradients are added up on the stream that saw a weight first, and recordings share memory within
    a stream only.
    """
    return torch.cuda.Stream()


class _Record:
    """The kernels for inputs of one shape.

    Attributes:
        graph: the recording, once there is one.
        warm: how often the body was called.
    """

    def __init__(self, body: Callable[..., torch.Tensor]) -> None:
        self._body = body
        self._inputs: list[torch.Tensor] = []
        self._output = torch.empty(0)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.warm = 0

    def call(self, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        self.warm += 1
        _stream().wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(_stream()):
            output = self._body(*inputs)
        torch.cuda.current_stream().wait_stream(_stream())
        return output

    def capture(self, inputs: tuple[torch.Tensor, ...], pool: tuple[int, int] | None) -> None:
        self._inputs = [each.clone() for each in inputs]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=_stream()):
            self._output = self._body(*self._inputs)
        self.graph = graph

    def replay(self, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        assert self.graph is not None
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given)
        self.graph.replay()
        return self._output.clone()
