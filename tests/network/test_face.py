"""What `ffn_edge.network` gives is loaded when it is used, whatever was imported before."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [
        "import ffn_edge.network\nassert 'torch' not in sys.modules",
        "from ffn_edge.network import ABLATIONS\nassert 'torch' not in sys.modules",
        "import ffn_edge.network.checkpoint\nfrom ffn_edge import network\n"
        "assert all(map(callable, (network.build, network.specialize, network.family_of)))",
        "from ffn_edge import network\n"
        "assert network.__all__ == [name for name in network.__all__ if hasattr(network, name)]",
    ],
)
def test_the_room_has_a_lazy_face(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"import sys\n{program}"], check=False)
    assert done.returncode == 0
