"""Train recognisers for rare conditions from a handful of real faces.

The library: every stage can be called from a notebook. It never imports Prefect and never reads
the environment; `tasks` and `flows` wire it up.
"""

import sys
from pathlib import Path

__version__ = "0.1.0"

# Where there is no GPU, triton stays out of memory. torch's compiler loads it as soon as diffusers
# touches that: 70 MB in every process. Wheels of torch for processors come without triton, so
# torch knows how to do without.
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
if "triton" not in sys.modules and not any(Path(device).exists() for device in _GPU_DEVICES):
    sys.modules["triton"] = None  # type: ignore[assignment]
