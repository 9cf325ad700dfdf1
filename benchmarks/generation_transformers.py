"""transformers' side of `benchmarks.generation_speed`: `generate` over batches, without a schema.

Reads the job file named on the command line; prints seconds and tokens as JSON.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def answer(model: Any, tokenizer: Any, requests: Sequence[dict[str, Any]]) -> int:
    """Answer one batch; return the tokens that were made."""
    texts = [
        tokenizer.apply_chat_template(
            request["messages"], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        for request in requests
    ]
    read = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
    with torch.inference_mode():
        made = model.generate(**read, max_new_tokens=requests[0]["max_tokens"], do_sample=False)
    new = made[:, read["input_ids"].shape[1] :]
    tokenizer.batch_decode(new, skip_special_tokens=True)
    return int((new != tokenizer.pad_token_id).sum())


def main() -> None:
    """Answer and report."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    folder, batch, requests = job["llm"]["model"], job["batch"], job["requests"]
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").to(device).eval()
    started = time.monotonic()
    tokens_out = sum(
        answer(model, tokenizer, requests[start : start + batch]) for start in range(0, len(requests), batch)
    )
    print(json.dumps({"seconds": time.monotonic() - started, "tokens_out": tokens_out}))


if __name__ == "__main__":
    main()
