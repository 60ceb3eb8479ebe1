#!/usr/bin/env python3
"""The same training step in PyTorch and transformers: random OPT, AdamW (fused), clipping at 1, dropout 0.

Prints one line of JSON: median seconds of a step, peak resident bytes of the process. With --dtype bf16 the weights are
bf16 and the optimizer works on fp32 master copies. Run by compare_pytorch; needs torch and transformers.
"""
import argparse
import json
import resource
import statistics
import threading
import time

import torch
from transformers import OPTConfig, OPTForCausalLM

SIZES = {
    "opt-125m": dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, ffn_dim=3072, word_embed_proj_dim=768),
    "opt-350m": dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, ffn_dim=4096,
                     word_embed_proj_dim=512, do_layer_norm_before=False),
}


def anonymous_bytes():
    with open("/proc/self/smaps_rollup") as f:
        kib = {line.split(":")[0]: int(line.split()[1]) for line in f if line.startswith(("Pss_Anon", "Pss_Shmem"))}
    return sum(kib.values()) * 1024


class PeakSampler(threading.Thread):
    """Follows the highest anonymous memory, 20 times a second; torch lets go of the interpreter's lock while it computes."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak = 0

    def run(self):
        while True:
            self.peak = max(self.peak, anonymous_bytes())
            time.sleep(0.05)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--size", default="opt-350m", choices=SIZES)
    a.add_argument("--rows", type=int, default=4)
    a.add_argument("--ids", type=int, default=512)
    a.add_argument("--steps", type=int, default=3)
    a.add_argument("--warmup", type=int, default=1)
    a.add_argument("--threads", type=int, default=0)
    a.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"])
    a.add_argument("--gradient_checkpointing", action="store_true")
    o = a.parse_args()
    if o.threads:
        torch.set_num_threads(o.threads)
    torch.manual_seed(1)
    config = OPTConfig(vocab_size=50272, dropout=0.0, attention_dropout=0.0, **SIZES[o.size])
    model = OPTForCausalLM(config).train()
    model.config.use_cache = False
    if o.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    masters = None
    if o.dtype == "bf16":
        masters = [p.detach().clone().float().requires_grad_() for p in model.parameters()]
        model = model.to(torch.bfloat16)
    optimizer = torch.optim.AdamW(masters or model.parameters(), lr=1e-5, betas=(0.9, 0.95), fused=True)
    ids = torch.randint(0, 50272, (o.rows, o.ids))

    sampler = PeakSampler()
    sampler.start()

    def step():
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if masters:
            for m, p in zip(masters, model.parameters()):
                m.grad = p.grad.float()
                p.grad = None
        optimizer.step()
        if masters:
            with torch.no_grad():
                for m, p in zip(masters, model.parameters()):
                    p.copy_(m)
        optimizer.zero_grad(set_to_none=True)

    for _ in range(o.warmup):
        step()
    seconds = []
    for _ in range(o.steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    print(json.dumps({"seconds": median, "tokens_per_second": o.rows * o.ids / median,
                      "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                      "peak_anonymous_bytes": sampler.peak, "torch": torch.__version__, "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
