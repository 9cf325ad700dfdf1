"""vLLM's side of `benchmarks.generation_speed`: all requests in one call of `LLM.chat`, without our engine class.

Reads the job file named on the command line; prints seconds and tokens as JSON.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

WARM_UP = [{"role": "user", "content": "tea"}]
NO_THINKING = {"enable_thinking": False}


def load(llm: dict[str, Any]) -> Any:
    """Return a `vllm.LLM` with the settings of [llm] that our engine runs with, on the CPU in this very process."""
    from vllm.platforms import current_platform

    eager = llm["enforce_eager"]
    if current_platform.is_cpu():
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(llm["cpu_kv_cache_gb"]))
        eager = True if eager is None else eager
    from vllm import LLM

    return LLM(
        model=llm["model"], dtype=llm["dtype"], max_model_len=llm["max_model_len"], seed=llm["seed"],
        tensor_parallel_size=llm["tensor_parallel_size"], gpu_memory_utilization=llm["gpu_memory_utilization"],
        enforce_eager=bool(eager), enable_prefix_caching=True, disable_log_stats=False,
        structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
    )  # fmt: skip


def main() -> None:
    """Answer and report."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    engine = load(job["llm"])
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    messages = [request["messages"] for request in job["requests"]]
    sampling = [
        SamplingParams(
            temperature=0.0,
            max_tokens=request["max_tokens"],
            structured_outputs=StructuredOutputsParams(json=json.dumps(request["schema"])),
        )
        for request in job["requests"]
    ]
    engine.chat([WARM_UP], sampling[:1], use_tqdm=False, chat_template_kwargs=NO_THINKING)
    started = time.monotonic()
    outputs = engine.chat(messages, sampling, use_tqdm=False, chat_template_kwargs=NO_THINKING)
    seconds = time.monotonic() - started
    tokens_out = sum(len(output.outputs[0].token_ids) for output in outputs)
    cached = sum(output.num_cached_tokens or 0 for output in outputs)
    print(json.dumps({"seconds": seconds, "tokens_out": tokens_out, "tokens_cached": cached}), flush=True)
    os._exit(0)  # the interpreter would take 4 s to tidy up


if __name__ == "__main__":
    main()
