#!/usr/bin/env python3
"""Makes tests/golden/data/ppo/NAME.*: what phase 3 computes with four tiny random models in double precision.

    tools/golden/make_ppo.py [OUTPUT_FOLDER]

The actor is models/NAME and the reward model models/NAME-reward, which the other makers write first; the reference is the actor
plus noise, the critic the reward model plus noise. Definitions are DeepSpeed-Chat's: masks come from ids, everything but id 2
is real. Arithmetic: make_ppo_arithmetic.py. Schema: tests/golden/data/README.md.
"""
import copy
import pathlib
import random
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file

from make_golden import END, MODELS, SEED, SHARED_CONFIG, largest_difference, no_decay, save_json, save_model
from make_ppo_arithmetic import losses, shaped
from make_reward import Reward

P, S = 8, 16    # columns of prompt, and in all
LENGTHS = [(8, 4), (5, 8), (3, 2), (7, 7)]    # ids of the prompt (the begin id is one), of the answer
RATES = {"actor": 4e-4, "critic": 6e-4}
STEPS, WARMUP, TOTAL = 6, 1, 8
DECAY = 0.992
OPTIONS = dict(kl_ctl=0.1, clip_reward_value=5, cliprange=0.2, cliprange_value=0.2, gamma=1.0, lam=0.95)
SOME = ("v_head.weight", "embed_tokens.weight", "layers.0.fc1.weight", "layers.1.final_layer_norm.bias",
        "layers.1.self_attn.q_proj.weight")    # final weights that are kept


def config_of(name):
    config = transformers.OPTConfig(**MODELS[name], **SHARED_CONFIG)
    config._attn_implementation = "sdpa"
    return config


def load(model, path):
    weights = {n: w.double() for n, w in load_file(path).items()}
    own = dict(model.named_parameters())
    assert set(weights) == set(own), set(weights) ^ set(own)
    for n, p in own.items():
        p.data = weights[n].to(p.dtype)
    return model.eval()


def plus_noise(model, generator):
    """Of a size that tells the two apart. Rounded to fp32, because that is what the file holds."""
    other = copy.deepcopy(model)
    for p in other.parameters():
        p.data = (p.data + 0.05 * torch.randn(p.shape, generator=generator, dtype=torch.float64)).float().double()
    return other


def make_models(name, folder, generator):
    actor = transformers.OPTForCausalLM(config_of(name)).double()
    actor.tie_weights()
    load(actor, folder / "models" / name / "model.safetensors")
    reward = load(Reward(config_of(name)).double(), folder / "models" / f"{name}-reward" / "model.safetensors")
    return {"actor": actor, "reference": plus_noise(actor, generator), "critic": plus_noise(reward, generator), "reward": reward}


def make_rows(name, vocabulary):
    rng, out = random.Random(f"{SEED} ppo {name}"), []
    for prompt, answer in LENGTHS:
        ids = [rng.randrange(3, vocabulary) for _ in range(prompt - 1 + answer)]
        out.append([END] * (P - prompt + 1) + ids + [END] * (S - P - answer))
    return torch.tensor(out)


# ---- what is computed

def logprobs_of(model, ids, mask):
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    return torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None]).squeeze(-1)


def all_values_of(model, ids, mask):
    return model({"input_ids": ids.tolist(), "attention_mask": mask.tolist()})


def values_of(model, ids, mask):
    return all_values_of(model, ids, mask)[:, :-1]


def score_of(model, ids, mask):
    values = all_values_of(model, ids, mask)
    ends = [next((t for t in range(P, S) if row[t] == END), S) for row in ids.tolist()]
    return torch.stack([values[j, end - 1] for j, end in enumerate(ends)])


def experience_of(models, ids, mask):
    with torch.no_grad():
        x = {"logprobs": logprobs_of(models["actor"], ids, mask), "ref_logprobs": logprobs_of(models["reference"], ids, mask),
             "values": values_of(models["critic"], ids, mask), "scores": score_of(models["reward"], ids, mask)}
    counted = mask[:, 1:].to(x["values"].dtype)
    x["rewards"], x["old_values"], x["advantages"], x["returns"], x["ends"] = shaped(
        OPTIONS, P - 1, counted, x["logprobs"], x["ref_logprobs"], x["values"], x["scores"])
    return x


def learner(model, rate):
    groups = [{"params": [p for n, p in model.named_parameters() if not no_decay(n)]},
              {"params": [p for n, p in model.named_parameters() if no_decay(n)]}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), eps=1e-8, weight_decay=0)
    return optimizer, transformers.get_scheduler("cosine", optimizer, WARMUP, TOTAL)


def update(model, loss, optimizer, schedule, record, name):
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    record[f"{name}_losses"].append(loss.item())
    record[f"{name}_grad_norms"].append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
    record[f"{name}_learning_rates"].append(schedule.get_last_lr()[0])
    optimizer.step()
    schedule.step()
    return gradients


def train(models, x, ids, mask):
    actor, critic = models["actor"], models["critic"]
    record = {f"{m}_{k}": [] for m in ("actor", "critic") for k in ("losses", "grad_norms", "learning_rates")}
    sides = {"actor": learner(actor, RATES["actor"]), "critic": learner(critic, RATES["critic"])}
    average = {n: p.detach().clone() for n, p in actor.named_parameters()}
    start, counted, first = P - 1, mask[:, P:].to(x["values"].dtype), {}
    for step in range(STEPS):
        for name, model in (("actor", actor), ("critic", critic)):
            new = logprobs_of(model, ids, mask) if name == "actor" else x["logprobs"]
            values = values_of(model, ids, mask) if name == "critic" else x["values"]
            pair = losses(OPTIONS, counted, x["logprobs"][:, start:], new[:, start:], x["old_values"][:, start:],
                          values[:, start:], x["advantages"], x["returns"])
            gradients = update(model, pair[0 if name == "actor" else 1], *sides[name], record, name)
            first.setdefault(name, gradients)
        for n, p in actor.named_parameters():
            average[n] = DECAY * average[n] + (1 - DECAY) * p.detach()
    final = {m: {n: p.detach().clone() for n, p in models[m].named_parameters()} for m in ("actor", "critic")}
    return {"record": record, "first": first, "final": final, "ema": average}


def results(models, ids):
    mask = (ids != END).long()
    x = experience_of(models, ids, mask)
    return {"experience": x, **train(models, x, ids, mask)}


# ---- files

def float32_errors(exact, single, mask, zeros):
    actions = mask[:, P:].bool()
    x, y = exact["experience"], single["experience"]

    def some(key):
        return largest_difference(x[key][:, P - 1:], y[key][:, P - 1:], actions)

    def weights(kind, model):
        return max(largest_difference(w, single[kind][model][n]) for n, w in exact[kind][model].items() if n not in zeros)

    errors = {"logprobs": max(some("logprobs"), some("ref_logprobs")), "values": some("values"),
              "scores": largest_difference(x["scores"], y["scores"]),
              "advantages": max(largest_difference(x[k], y[k], actions) for k in ("advantages", "returns"))}
    for model in ("actor", "critic"):
        a, b = exact["record"][f"{model}_losses"], single["record"][f"{model}_losses"]
        errors[f"{model}_losses"] = max(abs(p - q) for p, q in zip(a, b))
        errors[f"{model}_grads"], errors[f"{model}_final"] = weights("first", model), weights("final", model)
    return errors


def document(name, ids, exact, single, zeros):
    mask, x = (ids != END).long(), exact["experience"]
    return {"actor": f"models/{name}", "reference": f"models/{name}-reference", "critic": f"models/{name}-critic",
            "reward": f"models/{name}-reward",
            "made_with": {"torch": torch.__version__, "transformers": transformers.__version__, "seed": SEED},
            "prompt_length": P, "start": P - 1, "input_ids": ids.tolist(), "attention_mask": mask.tolist(),
            "action_mask": mask[:, P:].tolist(), **{k: v.tolist() for k, v in x.items()},
            "train": {**{f"{m}_learning_rate": r for m, r in RATES.items()}, "weight_decay": 0.0, "num_warmup_steps": WARMUP,
                      "total_steps": TOTAL, "lr_scheduler_type": "cosine", "inner_steps": STEPS, **exact["record"]},
            "float32_error": float32_errors(exact, single, mask, zeros), "zero_gradient_tensors": zeros}


def arrays(exact):
    out = {}
    for model in ("actor", "critic"):
        out.update({f"{model}_grad.{n}": g for n, g in exact["first"][model].items()})
        out.update({f"{model}_final.{n}": w for n, w in exact["final"][model].items() if n.endswith(SOME)})
    out.update({f"ema.{n}": w for n, w in exact["ema"].items() if n.endswith(SOME[2:])})
    return {n: w.float().contiguous() for n, w in out.items()}


def make(name, out):
    generator = torch.Generator().manual_seed(SEED + 31 * len(name))
    models = make_models(name, out, generator)
    ids = make_rows(name, models["actor"].config.vocab_size)
    save_model(models["reference"], out / "models" / f"{name}-reference")
    save_model(models["critic"], out / "models" / f"{name}-critic", "OPTModel")
    single = {k: copy.deepcopy(m).float() for k, m in models.items()}
    exact, rough = results(models, ids), results(single, ids)
    zeros = sorted({n for m in ("actor", "critic") for n, g in exact["first"][m].items() if g.abs().max() < 1e-13})
    save_json(document(name, ids, exact, rough, zeros), out / "ppo" / f"{name}.json")
    save_file(arrays(exact), out / "ppo" / f"{name}.safetensors")
    print(f"{name}: actor losses {exact['record']['actor_losses'][0]:.6f} to {exact['record']['actor_losses'][-1]:.6f}, "
          f"critic {exact['record']['critic_losses'][0]:.6f} to {exact['record']['critic_losses'][-1]:.6f}; zero: {zeros}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    here = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "data"
    for model_name in MODELS:
        make(model_name, pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here)
