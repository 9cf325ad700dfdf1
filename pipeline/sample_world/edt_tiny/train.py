"""Train edt-tiny on a CPU or a GPU: `python -m pipeline.sample_world.edt_tiny.train`, seeded, half an hour on one core.

Lessons of one batch share their fixed instructions, so these are read once and their keys and values serve every
lesson of the batch, as vLLM's prefix cache does it. The loss is on the replies alone.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from data_lake.files import put_file, temporary
from pipeline.llm.generator import Message
from pipeline.sample_world.edt_tiny import POSITIONS, get_model_path
from pipeline.sample_world.edt_tiny.lessons import Lesson, lessons

VOCABULARY = 2048
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IGNORED = -100


def train_tokenizer(rng: np.random.Generator, batches: int) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE from lessons, prompts and replies alike."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = []
    for _ in range(batches):
        batch = lessons(16, rng)
        texts.append(batch[0].request.messages[0]["content"])
        texts += [text for lesson in batch for text in (lesson.request.messages[1]["content"], lesson.reply)]
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", eos_token="<|im_end|>", model_max_length=POSITIONS
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def new_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """Return a Qwen2 of a million parameters with random weights."""
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        attention_dropout=0.0,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config.initializer_range = 0.04
    return Qwen2ForCausalLM(config)


def tokens(tokenizer: PreTrainedTokenizerFast, messages: tuple[Message, ...], reply: bool) -> list[int]:
    """Return the tokens of a chat; with `reply` the chat goes on with the assistant's turn."""
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=reply)
    return list(tokenizer.encode(text, add_special_tokens=False))


def loss_of(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, batch: list[Lesson]
) -> tuple[Tensor, Tensor, int]:
    """Return the mean loss on the reply tokens of lessons with equal instructions, the share right, and the tokens."""
    fixed = tokens(tokenizer, batch[0].request.messages[:1], reply=False)
    rows, wanted = [], []
    for lesson in batch:
        asked = tokens(tokenizer, lesson.request.messages, reply=True)[len(fixed) :]
        reply = [*tokenizer.encode(lesson.reply, add_special_tokens=False), tokenizer.eos_token_id]
        rows.append(asked + reply)
        wanted.append([IGNORED] * (len(asked) - 1) + reply + [IGNORED])
    width = max(map(len, rows))
    padded = [row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows]
    ids = torch.tensor(padded, device=model.device)  # (B, L)
    next_ids = [row + [IGNORED] * (width - len(row)) for row in wanted]
    labels = torch.tensor(next_ids, device=model.device)  # (B, L)
    cache = DynamicCache()
    model.model(torch.tensor([fixed], device=model.device), past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(len(rows))
    states = model.model(ids, past_key_values=cache, use_cache=True).last_hidden_state  # (B, L, D)
    counts = labels != IGNORED
    logits = model.lm_head(states[counts]).float()  # (N, V)
    right = (logits.argmax(-1) == labels[counts]).float().mean()
    return torch.nn.functional.cross_entropy(logits, labels[counts]), right, len(fixed) + ids.numel()


def train(
    out: Path, steps: int, batch: int, rate: float, seed: int, device: str = "cpu", tokenizer_batches: int = 150
) -> None:
    """Train from nothing on "cpu" or "cuda", and at the end put the model's files into `out`."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(np.random.default_rng([seed, 0]), tokenizer_batches)
    model = new_model(tokenizer).to(device)
    held_out = np.random.default_rng([seed, 1])
    checks = [lessons(batch, held_out) for _ in range(8)]
    rng = np.random.default_rng([seed, 2])
    matrices = [weight for name, weight in model.named_parameters() if weight.dim() == 2 and "embed" not in name]
    others = [weight for name, weight in model.named_parameters() if weight.dim() != 2 or "embed" in name]
    optimizers: tuple[torch.optim.Optimizer, ...] = (
        torch.optim.Muon(matrices, lr=1.5 * rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, weight_decay=0.0, betas=(0.9, 0.98)),
    )

    def warm_up_and_fall(step: int) -> float:
        return min(1.0, (step + 1) / 50, 0.02 + 1.4 * (1 - step / steps))

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, warm_up_and_fall) for optimizer in optimizers]
    print(f"{sum(weight.numel() for weight in model.parameters()):,} parameters", flush=True)
    begin, read = time.monotonic(), 0
    for step in range(1, steps + 1):
        with torch.autocast(device, dtype=torch.bfloat16):
            loss, _, count = loss_of(model, tokenizer, lessons(batch, rng))
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        read += count
        if step % 50 == 0 or step == steps:
            with torch.no_grad():
                losses, right, _ = zip(*(loss_of(model, tokenizer, check) for check in checks), strict=True)
            seconds = time.monotonic() - begin
            print(
                f"step {step}: held-out loss {torch.stack(losses).mean():.3f}, tokens right "
                f"{torch.stack(right).mean():.3f}, {seconds:.0f} s, {read / seconds:,.0f} tokens/s",
                flush=True,
            )
    written = temporary(out)
    save(model, tokenizer, written)
    for file in written.iterdir():
        put_file(file, out / file.name)
    written.rmdir()


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write config, weights (bfloat16) and tokenizer.

    As a Llama with attention biases, which is the same network: beside a Qwen2, transformers puts a pre-tokenizer of
    its own in the place of the one in the folder.
    """
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "rope_parameters",
             "bos_token_id", "eos_token_id", "pad_token_id")  # fmt: skip
    config = {name: getattr(model.config, name) for name in names}
    llama = LlamaForCausalLM(LlamaConfig(**config, attention_bias=True, tie_word_embeddings=True))
    missing, unexpected = llama.load_state_dict(model.state_dict(), strict=False)
    assert not unexpected
    assert all(name.endswith("o_proj.bias") for name in missing)
    for layer in llama.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.bias)  # what a Qwen2 has not
    llama.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train edt-tiny again, for example after a change of the prompts.")
    parser.add_argument("--out", type=Path, default=get_model_path(), help="by default the package's own model")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    given = parser.parse_args()
    gpu = torch.cuda.is_available()
    if given.device == "cuda" and not gpu:
        parser.error("--device cuda: torch sees no GPU here; use auto or cpu")
    device = "cuda" if gpu and given.device != "cpu" else "cpu"
    train(given.out, given.steps, given.batch, given.rate, given.seed, device)


if __name__ == "__main__":
    main()
