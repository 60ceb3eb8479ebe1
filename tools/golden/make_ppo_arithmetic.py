#!/usr/bin/env python3
"""Makes tests/golden/data/ppo/arithmetic.json: PPO's arithmetic without a model, by DeepSpeed-Chat's definitions.

    tools/golden/make_ppo_arithmetic.py [OUTPUT_FILE]

Log-probabilities, values and scores are random, by SEED alone; whole-tensor operations in double precision and PyTorch's own
gradients give what is expected of them. Nothing here follows the C code, which works row by row from explicit lengths: masks
come from ids, as DeepSpeed-Chat makes them. Schema: tests/golden/data/README.md.
"""
import json
import pathlib
import sys

import torch

SEED = 20251124
PAD = 2
P = 7    # columns of the prompt
# (prompt ids with the begin id, answer ids): the rest of a row is padding; an answer of ANSWER ids has no end id
ANSWER = 8
LENGTHS = [(7, 8), (3, 5), (5, 2), (2, 7), (6, 8), (4, 1)]
SETTINGS = dict(kl_ctl=0.1, clip_reward_value=5, cliprange=0.2, cliprange_value=0.2, gamma=1.0, lam=0.95)


def rows(generator):
    out = []
    for prompt, answer in LENGTHS:
        ids = torch.randint(3, 90, (prompt - 1 + answer,), generator=generator).tolist()
        out.append([PAD] * (P - prompt + 1) + ids + [PAD] * (ANSWER - answer))
    return out


def shaped(o, start, mask, logp, ref, values, scores):
    """Rewards and old values over all steps, advantages and returns from start on, one past the last step of each row."""
    rewards, old = -o["kl_ctl"] * (logp - ref), values.clone()
    ends = start + mask[:, start:].sum(1).long() + 1
    clipped = scores.clamp(-o["clip_reward_value"], o["clip_reward_value"])
    for j, end in enumerate(ends.tolist()):
        rewards[j, start:end][-1] += clipped[j]
        rewards[j, end:] = 0
        old[j, end:] = 0
    carry, advantages = torch.zeros(len(rewards), dtype=torch.float64), []
    for t in reversed(range(start, rewards.shape[1])):
        following = old[:, t + 1] if t + 1 < rewards.shape[1] else 0.0
        carry = rewards[:, t] + o["gamma"] * following - old[:, t] + o["gamma"] * o["lam"] * carry
        advantages.append(carry)
    advantages = torch.stack(advantages[::-1], dim=1)
    return rewards, old, advantages, advantages + old[:, start:], ends


def losses(o, mask, logp, new_logp, old, new_values, advantages, returns):
    ratio = ((new_logp - logp) * mask).exp()
    pushed = torch.max(-advantages * ratio, -advantages * ratio.clamp(1 - o["cliprange"], 1 + o["cliprange"]))
    near = torch.max(torch.min(new_values, old + o["cliprange_value"]), old - o["cliprange_value"])
    error = torch.max((new_values - returns) ** 2, (near - returns) ** 2)
    clipped = (((ratio - 1).abs() > o["cliprange"]) * mask).sum() / mask.sum()
    return (pushed * mask).sum() / mask.sum(), 0.5 * (error * mask).sum() / mask.sum(), clipped


def make():
    g = torch.Generator().manual_seed(SEED)
    ids = torch.tensor(rows(g))
    B, S = ids.shape

    def noise(scale, *shape):    # what fp32 holds exactly, so that no test has to allow for its rounding
        return (scale * torch.randn(*shape, generator=g, dtype=torch.float64)).float().double()

    logp = -noise(1, B, S - 1).abs()
    ref, values = (logp + noise(0.4, B, S - 1)).float().double(), noise(1, B, S - 1)
    scores = torch.tensor([6.5, -8.25, 0.5, -1.75, 5.0, 2.0], dtype=torch.float64)
    mask, start = (ids != PAD)[:, 1:].double(), P - 1
    rewards, old, advantages, returns, ends = shaped(SETTINGS, start, mask, logp, ref, values, scores)
    new_logp = (logp + noise(0.3, B, S - 1)).float().double().requires_grad_()
    new_values = (values + noise(0.3, B, S - 1)).float().double().requires_grad_()
    counted = mask[:, start:]
    actor, critic, clipped = losses(SETTINGS, counted, logp[:, start:], new_logp[:, start:], old[:, start:],
                                    new_values[:, start:], advantages, returns)
    (actor + critic).backward()
    tensors = dict(input_ids=ids, attention_mask=(ids != PAD).long(), logprobs=logp, ref_logprobs=ref, values=values,
                   scores=scores, new_logprobs=new_logp, new_values=new_values, ends=ends, rewards=rewards,
                   old_values=old, advantages=advantages, returns=returns, action_mask=counted.long(),
                   grad_new_logprobs=new_logp.grad, grad_new_values=new_values.grad)
    return {"made_with": {"torch": torch.__version__, "seed": SEED}, "prompt_length": P, "start": start, **SETTINGS,
            **{name: x.tolist() for name, x in tensors.items()}, "actor_loss": actor.item(),
            "critic_loss": critic.item(), "clip_fraction": clipped.item()}


if __name__ == "__main__":
    here = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "data" / "ppo" / "arithmetic.json"
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here
    out.parent.mkdir(parents=True, exist_ok=True)
    result = make()
    out.write_text(json.dumps(result).replace(', "', ',\n"') + "\n")
    print(f"actor loss {result['actor_loss']:.6f}, critic loss {result['critic_loss']:.6f}, clipped {result['clip_fraction']:.2f}")
