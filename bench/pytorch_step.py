#!/usr/bin/env python3
"""The same work in PyTorch and transformers: random OPT, AdamW (fused), clipping at 1, dropout 0.

  --phase sft        a step on --rows rows of --ids ids
  --phase reward     a step on --rows pairs that part half way
  --phase generate   --rows prompts of --ids / 2 ids, as many new ones each, greedy, with the KV cache
  --phase ppo        an iteration: that generation, four models' scores, a step of actor and one of critic

Prints one line of JSON: median seconds of a step and of its parts, peak bytes of the process, resident and without files'.
With --dtype bf16 the weights are bf16 and the optimizer works on fp32 master copies. Run by compare_pytorch; needs torch and
transformers.
"""
import argparse
import json
import resource
import statistics
import threading
import time

import torch
import torch.nn.functional as F
from transformers import OPTConfig, OPTForCausalLM, OPTModel

V = 50272
SIZES = {
    "opt-tiny": dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, ffn_dim=256, word_embed_proj_dim=64),
    "opt-125m": dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, ffn_dim=3072, word_embed_proj_dim=768),
    "opt-350m": dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, ffn_dim=4096,
                     word_embed_proj_dim=512, do_layer_norm_before=False),
}


def anonymous_bytes():
    """Counters: reading smaps_rollup instead would walk the pages, and hold up what is measured."""
    with open("/proc/self/status") as f:
        kib = {line.split(":")[0]: int(line.split()[1]) for line in f if line.startswith(("RssAnon", "RssShmem"))}
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


class Scorer(torch.nn.Module):
    """A decoder with one number an id: reward model and critic."""

    def __init__(self, config):
        super().__init__()
        self.decoder = OPTModel(config)
        self.head = torch.nn.Linear(config.word_embed_proj_dim, 1, bias=False)

    def forward(self, ids):
        return self.head(self.decoder(input_ids=ids, use_cache=False).last_hidden_state).squeeze(-1)


class Learner:
    """A model with its optimizer; step(loss) is backward, clipping, AdamW."""

    def __init__(self, model, o):
        self.model, self.masters = model.train(), None
        if o.dtype == "bf16":
            self.masters = [p.detach().clone().float().requires_grad_() for p in model.parameters()]
            self.model = model.to(torch.bfloat16)
        self.optimizer = torch.optim.AdamW(self.masters or model.parameters(), lr=1e-5, betas=(0.9, 0.95), fused=True)

    def step(self, loss):
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for m, p in zip(self.masters or [], self.model.parameters()):
            m.grad = p.grad.float()
            p.grad = None
        self.optimizer.step()
        if self.masters:
            with torch.no_grad():
                for m, p in zip(self.masters, self.model.parameters()):
                    p.copy_(m)
        self.optimizer.zero_grad(set_to_none=True)


def language_model(o, config):
    model = OPTForCausalLM(config)
    if o.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return model


def frozen(model, o):
    return (model.to(torch.bfloat16) if o.dtype == "bf16" else model).eval().requires_grad_(False)


def work_sft(o, config):
    learner, ids = Learner(language_model(o, config), o), torch.randint(0, V, (o.rows, o.ids))
    return lambda part: learner.step(learner.model(input_ids=ids, labels=ids, use_cache=False).loss)


def work_reward(o, config):
    learner, ids = Learner(Scorer(config), o), torch.randint(0, V, (2 * o.rows, o.ids))
    begin = o.ids // 2
    ids[o.rows:, :begin] = ids[:o.rows, :begin]
    ids[:, begin] = torch.arange(2 * o.rows)    # where chosen and rejected begin to differ

    def step(part):
        scores = learner.model(ids).float()
        learner.step(-F.logsigmoid(scores[:o.rows, begin:] - scores[o.rows:, begin:]).mean())
    return step


def generate(model, prompts):
    n = prompts.shape[1]
    with torch.no_grad():
        return model.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=n, min_new_tokens=n,
                              do_sample=False)


def work_generate(o, config):
    model = frozen(OPTForCausalLM(config), o)
    prompts = torch.randint(4, V, (o.rows, o.ids // 2))
    return lambda part: generate(model, prompts)


def chosen_logp(model, ids):
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    return F.log_softmax(logits.float(), dim=-1).gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)


def shaped(logp, reference, score, values, begin):
    """Rewards with the KL term, then advantages (gamma 1, lambda 0.95) and returns of the answers' steps."""
    rewards = -0.1 * (logp - reference)
    rewards[:, -1] += score.clamp(-5, 5)
    last, advantages = torch.zeros(len(score)), []
    for t in reversed(range(begin, values.shape[1])):
        following = values[:, t + 1] if t + 1 < values.shape[1] else 0.0
        last = rewards[:, t] + following - values[:, t] + 0.95 * last
        advantages.append(last)
    advantages = torch.stack(advantages[::-1], dim=1)
    return advantages, advantages + values[:, begin:]


def work_ppo(o, config):
    actor, critic = Learner(OPTForCausalLM(config), o), Learner(Scorer(config), o)
    reference, reward = frozen(OPTForCausalLM(config), o), frozen(Scorer(config), o)
    prompts, begin = torch.randint(4, V, (o.rows, o.ids // 2)), o.ids // 2 - 1

    def step(part):
        ids = generate(actor.model, prompts)
        part("generate")
        with torch.no_grad():
            old, ref = chosen_logp(actor.model, ids), chosen_logp(reference, ids)
            values, score = critic.model(ids).float()[:, :-1], reward(ids).float()[:, -1]
            advantages, returns = shaped(old, ref, score, values, begin)
        part("score")
        old, values = old[:, begin:], values[:, begin:]
        ratio = (chosen_logp(actor.model, ids)[:, begin:] - old).exp()
        actor.step(torch.max(-advantages * ratio, -advantages * ratio.clamp(0.8, 1.2)).mean())
        del ratio
        part("actor")
        new = critic.model(ids).float()[:, begin:-1]
        clipped = torch.max(torch.min(new, values + 0.2), values - 0.2)
        critic.step(0.5 * torch.max((new - returns) ** 2, (clipped - returns) ** 2).mean())
        part("critic")
    return step


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--phase", default="sft", choices=["sft", "reward", "generate", "ppo"])
    a.add_argument("--size", default="opt-350m", choices=SIZES)
    a.add_argument("--rows", type=int, default=4)
    a.add_argument("--ids", type=int, default=512)
    a.add_argument("--steps", type=int, default=3)
    a.add_argument("--warmup", type=int, default=1)
    a.add_argument("--threads", type=int, default=0)
    a.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"])
    a.add_argument("--gradient_checkpointing", action="store_true", help="with --phase sft")
    o = a.parse_args()
    if o.threads:
        torch.set_num_threads(o.threads)
    torch.manual_seed(1)
    config = OPTConfig(vocab_size=V, dropout=0.0, attention_dropout=0.0, **SIZES[o.size])
    step = {"sft": work_sft, "reward": work_reward, "generate": work_generate, "ppo": work_ppo}[o.phase](o, config)
    sampler = PeakSampler()
    sampler.start()
    seconds, parts = [], {}
    for i in range(o.warmup + o.steps):
        start = before = time.perf_counter()

        def part(name):
            nonlocal before
            now = time.perf_counter()
            parts.setdefault(name, []).append(now - before)
            before = now
        step(part)
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": statistics.median(seconds[o.warmup:]),
                      "parts": {name: statistics.median(s[o.warmup:]) for name, s in parts.items()},
                      "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                      "peak_anonymous_bytes": sampler.peak, "torch": torch.__version__, "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
