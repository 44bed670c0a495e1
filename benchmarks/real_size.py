"""InternVL2.5-1B at its real size, random weights: time and memory of fit-bias, FLOPs predicted and counted.

    python -m benchmarks.real_size

The checkpoint is written in the original published layout (sizes of ``config.json``, a small tokenizer) and read
back from the command line, so this is the path a user's download takes. About 2 GB of disk and 6 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import biaslab as bl

from .common import ROOT
from .report import Report, Table

SIZES = ((800, 600), (448, 900))  # two images, two tilings
VISION = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24,
          "image_size": 448, "patch_size": 14}  # fmt: skip
DECODER = {"hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14, "num_key_value_heads": 2,
           "num_hidden_layers": 24, "vocab_size": 151674, "rms_norm_eps": 1e-6}  # fmt: skip


def main() -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        report(Path(folder), options.threads).publish(options.out)


def report(folder: Path, threads: int) -> Report:
    """Write the checkpoint and measure it."""
    checkpoint, pictures = write(folder / "checkpoint"), folder / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for i, (width, height) in enumerate(SIZES):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(pictures / f"{i}.png")
    rows, weights = count(checkpoint, pictures)
    seconds, peak, summary = fit(checkpoint, pictures, folder / "profile.safetensors")
    run = {"images": summary["n"], "wall": seconds, "peak": peak,
           "weights": weights}  # fmt: skip
    about = {"images": ("images", "d"), "wall": ("wall s", ".0f"),
             "peak": ("peak MiB", ".0f"), "weights": ("of it weights MiB", ".0f")}  # fmt: skip
    flops = {"size": ("picture", ""), "n_visual": ("visual tokens", "d"), "n_text": ("text tokens", "d"),
             **{f"{part}_{kind}": (f"{part}, {kind} TFLOPs", ".4f")
                for part in ("vision", "decoder") for kind in ("predicted", "counted")},
             "seconds": ("counted forward s", ".0f")}  # fmt: skip
    return Report(
        name="real_size",
        title="InternVL2.5-1B at its real size, random weights, original checkpoint layout",
        settings={"dtype": "bfloat16", "threads": threads},
        tables=[
            Table("biaslab fit-bias over the images, all layers, from the command line", about, [run]),
            Table("FLOPs of one prefill: predicted from the configuration, counted by FlopCounterMode", flops, rows),
        ],
        targets=[],
        notes=[
            "peak: largest resident memory of the process, the mapped checkpoint and libraries included",
            "vision: tower and projector; counted under SDPA's MATH backend, without capture",
        ],
    )


def write(folder: Path) -> Path:
    """Write the checkpoint, one file, by the writer that the tests use."""
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    import original

    return original.write(folder, "qwen2", dtype=torch.bfloat16, vision=VISION, llm=DECODER, force_image_size=448)


def fit(checkpoint: Path, pictures: Path, out: Path) -> tuple[float, float, dict]:
    """Wall seconds, peak MiB and what the command said."""
    command = [sys.executable, "-c", "from biaslab.cli import main; main()", "fit-bias", "--model", str(checkpoint),
               "--images", str(pictures), "--batch-size", "1", "--out", str(out), "--json"]  # fmt: skip
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"fit-bias ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return seconds, peak, json.loads(done.stdout)


def count(checkpoint: Path, pictures: Path) -> tuple[list[dict], float]:
    """Predicted and counted FLOPs per image, and the MiB of the weights."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from biaslab.cost import image_flops
    from biaslab.datasets.calibration import PROMPT

    vlm = bl.load(checkpoint)
    rows = []
    for path in sorted(pictures.iterdir()):
        encoded = vlm.encode([path], [PROMPT])
        n_visual = encoded.layouts[0].n
        n_text = encoded.last + 1 - n_visual
        want = image_flops(vlm.model.config, n_visual, n_text)
        parts = []
        start = time.perf_counter()
        with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            with FlopCounterMode(display=False) as counter:
                given = vlm.vision(encoded)
            parts.append(counter.get_total_flops())
            with FlopCounterMode(display=False) as counter:
                vlm.forward(given, logits_to_keep=1)
            parts.append(counter.get_total_flops())
        rows.append({
            "size": "x".join(map(str, encoded.layouts[0].size)), "n_visual": n_visual, "n_text": n_text,
            "vision_predicted": (want.vision + want.projector) / 1e12, "vision_counted": parts[0] / 1e12,
            "decoder_predicted": want.prefill / 1e12, "decoder_counted": parts[1] / 1e12,
            "seconds": time.perf_counter() - start,
        })  # fmt: skip
    weights = sum(p.numel() * p.element_size() for p in vlm.model.parameters()) / 2**20
    return rows, weights


if __name__ == "__main__":
    main()
