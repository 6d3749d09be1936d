"""Peak memory of a prediction with many classes, measured by the kernel in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CLASSES, GRID, PATCH = 60, (200, 256, 256), (128, 128, 128)
SCRIPT = """
import sys
import numpy as np, torch, skimage, scipy.ndimage
from pathlib import Path
from autoseg.core.labels import LabelScheme
from autoseg.prediction.decode import decode, native_rows
from autoseg.prediction.sliding_window import stream_logits

def high_water_mark():
    rows = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(rows["VmHWM"].split()[0]) * 1024

classes, grid, patch, native = {classes}, {grid}, {patch}, {native}
torch.set_num_threads(2)
torch.manual_seed(0)
names = {{"background": 0, **{{f"label {{i}}": i for i in range(1, classes)}}}}
network = torch.nn.Conv3d(1, classes, 1)
with torch.no_grad():
    network.weight.uniform_(-1, 1)
    network.bias.uniform_(-1, 1)
    network(torch.zeros(1, 1, 8, 8, 8))
    torch.ones(1, 2, 2) @ torch.ones(1, 2, 2)
image = torch.linspace(-3, 3, grid[0])[:, None, None].expand(grid)[None].contiguous()
before = high_water_mark()
with torch.inference_mode():
    slabs = stream_logits(
        image, network, patch_size=patch, n_outputs=classes, step=1.0, device=torch.device("cpu")
    )
    blocks = native_rows(slabs, shape_in=grid, shape_out=native, separate_axis=None)
    labels = np.concatenate([decode(block, LabelScheme(declared=names)) for block in blocks])
peak = high_water_mark()
expected = network(torch.linspace(-3, 3, grid[0]).reshape(1, 1, -1, 1, 1)).argmax(1)[0, :, 0, 0]
if native == grid:
    assert (labels == expected.numpy()[:, None, None]).all()
assert labels.shape == native and len(np.unique(labels)) > 2
print(peak - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")
@pytest.mark.parametrize("native", [GRID, (150, 320, 288)], ids=["same grid", "another grid"])
def test_sixty_classes_take_less_than_3_gb(native: tuple[int, int, int]) -> None:
    code = SCRIPT.format(classes=CLASSES, grid=GRID, patch=PATCH, native=native)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    activations = 4 * CLASSES * PATCH[0] * PATCH[1] * PATCH[2]
    total = int(done.stdout)
    whole = 4 * CLASSES * GRID[0] * GRID[1] * GRID[2]
    print(
        f"{CLASSES} classes on {GRID} -> {native}: {total / 1e9:.2f} GB, of them {activations / 1e9:.2f} GB the "
        f"network's output for one tile; all logits would be {whole / 1e9:.2f} GB"
    )
    assert total - activations < 3e9
