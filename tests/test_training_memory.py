"""The peak of memory is that of training, not of what came before it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MIB = 2**20
PROCESS = """
import numpy as np, torch
from benchmark.experiment.environment import keep_freed_memory
from benchmark.training.memory import peak_bytes, reset_peak

cpu, mib = torch.device("cpu"), 2**20
keep_freed_memory()
reset_peak(cpu)
start = peak_bytes(cpu)
blocks = [np.ones(mib, dtype=np.uint8) for _ in range(256)]
print(peak_bytes(cpu) - start)
del blocks
reset_peak(cpu)
start = peak_bytes(cpu)
block = np.ones(128 * mib, dtype=np.uint8)  # too large for pages that were freed and kept
print(peak_bytes(cpu) - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have the peak of the whole process alone")
def test_what_was_held_before_does_not_count() -> None:
    """Oracle: 256 MiB that glibc keeps when they are freed, before the peak is reset, and 128 MiB after it.

    A process of its own has no memory from other tests, which the blocks would fill without a higher peak.
    """
    ended = subprocess.run([sys.executable, "-c", PROCESS], cwd=ROOT, capture_output=True, text=True, check=True)
    before, after = map(int, ended.stdout.split())
    assert before >= 0.9 * 256 * MIB
    assert 0.9 * 128 * MIB <= after <= 1.1 * 128 * MIB


LONG_RUN = """
import sys
from pathlib import Path
import numpy as np, torch
sys.path.insert(0, "tests")
from tiny import TinyMethod, training
from benchmark.experiment.environment import keep_freed_memory

keep_freed_memory()
torch.set_num_threads(1)
resident = []

class Weighed(TinyMethod):
    def after_step(self, progress):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        resident.append(pages * 4096)

training(Path(sys.argv[1]), Weighed, steps=2000, checkpoint_seconds=0.2).run(resume=False)
steps = np.arange(500, 2000)
slope, start = np.polyfit(steps, np.array(resident[500:2000]), 1)
print(slope * 1500, np.mean(resident[500:2000]), len(resident))
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell the resident memory so")
def test_memory_does_not_grow_with_steps(tmp_path: Path) -> None:
    """Oracle: a line fitted to the resident memory after each of steps 500 to 2,000, with logs and checkpoints: from
    its begin to its end it changes by less than 1 % of the mean."""
    program = [sys.executable, "-c", LONG_RUN, str(tmp_path / "run")]
    ended = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True)
    rise, mean, steps = map(float, ended.stdout.splitlines()[-1].split())
    print(f"{steps:,.0f} steps: memory rises by {rise / 2**20:.2f} of {mean / 2**20:.0f} MiB, {rise / mean:.3%}")
    assert steps == 2000
    assert abs(rise) < 0.01 * mean
