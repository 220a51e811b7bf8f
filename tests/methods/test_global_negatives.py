"""Two processes of half the batch have the loss and the gradients of one process with all of it."""

import os
import subprocess
import sys
from pathlib import Path


def test_two_processes_of_half_a_batch_have_the_gradients_of_one_with_all_of_it() -> None:
    """CLIP, SigLIP and FILIP, plain and in tiles, with all weights in each process and with shares of them."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(Path(__file__).with_name("two_gradients.py"))],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.split() == ["equal"] * 2
