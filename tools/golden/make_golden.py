#!/usr/bin/env python3
"""Makes tests/golden/data: two tiny random OPT models, what phase 1 computes with them in double precision, and what they
answer.

    tools/golden/make_golden.py [OUTPUT_FOLDER]

The numbers come from PyTorch and Hugging Face transformers (OPTForCausalLM, AdamW, get_scheduler), so they do not depend on
this project's own idea of the model. Weights, ids and lengths are random, by SEED alone. Every gradient is checked against
central differences before anything is written. Schema: tests/golden/data/README.md.
"""
import json
import pathlib
import random
import sys

import torch
import transformers
from safetensors.torch import save_file

SEED = 20240527
T = 16
END = 2    # bos, eos and pad at once, as DeepSpeed-Chat sets them
NO_LOOKUP = 1    # the embedding's padding_idx: its look-up gets no gradient
MODELS = {
    # like opt-350m: norms after the blocks, E < C, no final norm; sizes that fill no vector register
    "post": dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=4, ffn_dim=40, word_embed_proj_dim=12,
                 vocab_size=107, do_layer_norm_before=False),
    # like all other sizes
    "pre": dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=56, word_embed_proj_dim=16,
                vocab_size=96, do_layer_norm_before=True),
}
SHARED_CONFIG = dict(max_position_embeddings=30, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, layerdrop=0.0,
                     activation_function="relu", enable_bias=True, pad_token_id=1, bos_token_id=END, eos_token_id=END)


# ---- models and rows

def random_weights(model, generator):
    """Nothing trivial: no zero bias, no norm of ones. Rounded to fp32, because that is what the file holds."""
    for name, p in model.named_parameters():
        x = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        if "norm.weight" in name:
            x = 1 + 0.2 * x
        elif name.endswith("bias"):
            x = 0.1 * x
        elif "embed" in name:
            x = 0.4 * x
        else:
            x = x / p.shape[1] ** 0.5
        p.data = x.float().to(p.dtype)


def make_model(name, generator):
    config = transformers.OPTConfig(**MODELS[name], **SHARED_CONFIG)
    config._attn_implementation = "sdpa"    # eager attention rounds its softmax to fp32
    model = transformers.OPTForCausalLM(config).double()
    model.tie_weights()
    random_weights(model, generator)
    assert model.lm_head.weight is model.model.decoder.embed_tokens.weight
    return model


def rows(rng, vocabulary, lengths):
    """Rows of random ids of these lengths, padded on the right to T."""
    ids = [[END] + [rng.randrange(3, vocabulary) for _ in range(n - 1)] + [END] * (T - n) for n in lengths]
    return {"input_ids": ids, "attention_mask": [[1] * n + [0] * (T - n) for n in lengths]}


def on_the_left(batch):
    """The same rows, padded on the left."""
    move = [T - sum(m) for m in batch["attention_mask"]]
    ids = [[END] * k + row[:T - k] for k, row in zip(move, batch["input_ids"])]
    return {"input_ids": ids, "attention_mask": [[0] * k + [1] * (T - k) for k in move]}


def tensors(batch):
    return torch.tensor(batch["input_ids"]), torch.tensor(batch["attention_mask"])


# ---- what is computed

def logits_of(model, batch):
    ids, mask = tensors(batch)
    return model(input_ids=ids, attention_mask=mask, use_cache=False).logits


def counted(batch, padding_counts):
    """Of the T-1 ids that are predicted in each row."""
    mask = tensors(batch)[1]
    return torch.ones_like(mask[:, 1:], dtype=torch.bool) if padding_counts else (mask[:, :-1] * mask[:, 1:]).bool()


def loss_of(model, batch, padding_counts=False):
    ids, keep = tensors(batch)[0], counted(batch, padding_counts)
    return torch.nn.functional.cross_entropy(logits_of(model, batch)[:, :-1][keep], ids[:, 1:][keep])


def gradients_of(model, batch, loss=loss_of):
    model.zero_grad(set_to_none=True)
    loss(model, batch).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def norm_of(gradients):
    return torch.stack([g.norm() for g in gradients]).norm().item()


def no_decay(name):
    return name.endswith("bias") or "norm.weight" in name


def train(model, settings, micro_batches, n_updates, loss_of):
    """AdamW with DeepSpeed-Chat's groups, clipping at 1. Returns what the run's record in the file holds."""
    named = list(model.named_parameters())
    groups = [{"params": [p for n, p in named if not no_decay(n)], "weight_decay": settings["weight_decay"]},
              {"params": [p for n, p in named if no_decay(n)], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings["learning_rate"], betas=(0.9, 0.95), eps=1e-8)
    schedule = transformers.get_scheduler(settings["lr_scheduler_type"], optimizer, settings["num_warmup_steps"],
                                          settings["total_steps"])
    record = {"losses": [], "grad_norms": [], "learning_rates": []}
    share = settings["gradient_accumulation_steps"]
    for u in range(n_updates):
        optimizer.zero_grad(set_to_none=True)
        for micro in range(share):
            loss = loss_of(model, micro_batches[(u * share + micro) % len(micro_batches)])
            (loss / share).backward()
            record["losses"].append(loss.item())
        record["grad_norms"].append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        record["learning_rates"].append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return record


def run_from(weights, model, settings, micro_batches, n_updates, loss=loss_of):
    """A training run that starts at these weights; returns its record and the final weights."""
    model.load_state_dict(weights)
    record = train(model, settings, micro_batches, n_updates, loss)
    final = {n: p.detach().clone() for n, p in model.named_parameters()}
    model.load_state_dict(weights)
    return record, final


# ---- checks

def check_gradients(model, batch, gradients, generator, loss=loss_of):
    """Central differences along one random direction a tensor. Returns the largest difference relative to the norms."""
    worst = 0.0
    for name, p in model.named_parameters():
        direction = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        if name.endswith("embed_tokens.weight"):
            direction[NO_LOOKUP] = 0    # by definition not the derivative
        direction /= direction.norm()
        step, ends = 1e-6, []
        start = p.data.clone()
        with torch.no_grad():
            for sign in (1, -1):
                p.data = start + sign * step * direction
                ends.append(loss(model, batch).item())
            p.data = start
        measured = (ends[0] - ends[1]) / (2 * step)
        worst = max(worst, abs(measured - (gradients[name] * direction).sum().item()) / (gradients[name].norm().item() + 1))
    assert worst < 1e-7, f"gradients are {worst} away from central differences"
    return worst


def largest_difference(a, b, keep=None):
    difference = (a.double() - b.double()).abs()
    return (difference if keep is None else difference[keep]).max().item()


def losses_apart(a, b):
    return max(abs(x - y) for x, y in zip(a["losses"], b["losses"]))


# ---- one model's files

def results(model, work):
    """Everything that is computed in one precision, by name."""
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    out = {"grads": gradients_of(model, work["batch"])}
    with torch.no_grad():
        out["logits"] = logits_of(model, work["batch"])
        out["left_logits"] = logits_of(model, work["left"])
        out["loss"] = loss_of(model, work["batch"]).item()
        out["left_loss"] = loss_of(model, work["left"]).item()
        out["loss_padding_counted"] = loss_of(model, work["batch"], padding_counts=True).item()
    for key, run in work["runs"].items():
        out[key], out[key + ".final"] = run_from(weights, model, run["settings"], run["batches"], run["n_updates"])
    return out


def float32_errors(exact, single, work, zeros):
    real = [tensors(work[k])[1].bool() for k in ("batch", "left")]
    runs = work["runs"]
    return {
        "logits": largest_difference(exact["logits"], single["logits"], real[0]),
        "left_logits": largest_difference(exact["left_logits"], single["left_logits"], real[1]),
        "loss": max(abs(exact[k] - single[k]) for k in ("loss", "left_loss", "loss_padding_counted")),
        "grads": max(largest_difference(g, single["grads"][n]) for n, g in exact["grads"].items()),
        "train_losses": max(losses_apart(exact[k], single[k]) for k in runs),
        "train_final": max(largest_difference(w, single[k + ".final"][n]) for k in runs
                           for n, w in exact[k + ".final"].items() if n not in zeros),
    }


def settings(rate, decay, warmup, total, accumulation=1):
    return {"learning_rate": rate, "weight_decay": decay, "num_warmup_steps": warmup, "total_steps": total,
            "gradient_accumulation_steps": accumulation, "lr_scheduler_type": "cosine"}


def make_work(rng, vocabulary):
    batch = rows(rng, vocabulary, [T, 11, 6, 9])
    batch["input_ids"][0][5] = NO_LOOKUP    # an id that is looked up, and whose row the look-up must not train
    # Every batch has an even number of targets: two ranks can share the mean.
    batches = [rows(rng, vocabulary, [T - u, 5 + u, 8, 3 + 2 * u]) for u in range(5)]
    micro = [rows(rng, vocabulary, [T - u, 4 + u]) for u in range(10)]
    return {
        "batch": batch, "left": on_the_left(batch),
        "runs": {
            "train": {"settings": settings(4e-3, 0.1, 2, 5), "batches": batches, "n_updates": 5},
            "train_accumulated": {"settings": settings(3e-3, 0.0, 0, 5, 2), "batches": micro, "n_updates": 5},
            "train_same_batch": {"settings": settings(4e-3, 0.0, 0, 16), "batches": [batch], "n_updates": 8},
        },
    }


def document(name, exact, single, work, zeros, finite_difference):
    runs = {key: {**run["settings"], **exact[key]} for key, run in work["runs"].items()}
    runs["train"]["batches"] = work["runs"]["train"]["batches"]
    runs["train_accumulated"]["micro_batches"] = work["runs"]["train_accumulated"]["batches"]
    return {
        "model": f"models/{name}",
        "made_with": {"torch": torch.__version__, "transformers": transformers.__version__, "seed": SEED},
        **work["batch"],
        **{"left_" + k: v for k, v in work["left"].items()},
        "loss": exact["loss"],
        "targets": int(counted(work["batch"], False).sum()),
        "loss_padding_counted": exact["loss_padding_counted"],
        "targets_padding_counted": int(counted(work["batch"], True).sum()),
        "grad_norm": norm_of(exact["grads"].values()),
        **runs,
        "float32_error": float32_errors(exact, single, work, zeros),
        "zero_gradient_tensors": zeros,
        "finite_difference": finite_difference,
    }


def arrays(exact):
    some = ("embed_tokens.weight", "layers.0.fc1.weight", "layers.0.final_layer_norm.weight", "layers.1.self_attn.q_proj.weight")
    out = {"logits": exact["logits"], "left_logits": exact["left_logits"]}
    out.update({f"grad.{n}": g for n, g in exact["grads"].items()})
    out.update({f"final.{n}": w for n, w in exact["train.final"].items()})
    out.update({f"accumulated_final.{n}": w for n, w in exact["train_accumulated.final"].items() if n.endswith(some)})
    return {n: x.detach().float().contiguous() for n, x in out.items()}


# ---- generation

def greedy(model, batch, length, end):
    """Greedy continuation of rows padded on the left to `length` columns, by a whole forward pass for each new id; a row
    that has ended goes on with END. Returns the sequences and the smallest distance between the two best logits."""
    ids, mask = tensors(batch)
    ended = torch.zeros(len(ids), dtype=torch.bool)
    gap = float("inf")
    while ids.shape[1] < length and not ended.all():
        with torch.no_grad():
            best = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, -1].topk(2)
        gap = min(gap, (best.values[:, 0] - best.values[:, 1])[~ended].min().item())
        new = torch.where(ended, END, best.indices[:, 0])
        ended |= new == end
        ids = torch.cat([ids, new[:, None]], 1)
        mask = torch.cat([mask, torch.ones_like(new)[:, None]], 1)
    return ids, gap


def check_against_library(model, batch, sequences, end):
    ids, mask = tensors(batch)
    theirs = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_length=sequences.shape[1],
                            eos_token_id=end, pad_token_id=END, use_cache=True)
    assert theirs.tolist() == sequences.tolist(), "decoding with a cache differs from whole forward passes"


def generation(model, rng, vocabulary):
    """Prompts of unlike lengths, and as the end id one that a row comes to in the middle of its answer."""
    batch = on_the_left(rows(rng, vocabulary, [T, 7, 4, 11]))
    length = T + 12
    free, _ = greedy(model, batch, length, end=-1)
    end = int(free[1, T + 5])
    sequences, gap = greedy(model, batch, length, end)
    check_against_library(model, batch, sequences, end)
    assert gap > 1e-3, f"two logits are {gap} apart: another seed, please"
    return {**batch, "max_length": length, "end_id": end, "pad_id": END, "sequences": sequences.tolist(),
            "smallest_gap": gap}


def save_generation(name, model, out):
    (out / "generate").mkdir(exist_ok=True)
    document = {"model": f"models/{name}", **generation(model, random.Random(f"{SEED} {name} generate"), model.config.vocab_size)}
    (out / "generate" / f"{name}.json").write_text(json.dumps(document).replace(', "', ',\n"') + "\n")


def save_model(model, folder, architecture="OPTForCausalLM"):
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config.to_dict()
    told = {k: config[k] for k in ("model_type", *MODELS["post"], *SHARED_CONFIG)}
    text = json.dumps({"architectures": [architecture], **told}, indent=1)
    (folder / "config.json").write_text(text + "\n")
    save_file({n: p.detach().float().contiguous() for n, p in model.named_parameters()}, folder / "model.safetensors",
              metadata={"format": "pt"})


def save_json(document, file):
    """One key a line, so that changes can be read."""
    file.write_text(json.dumps(document).replace('}, {"input_ids"', '},\n{"input_ids"').replace(', "', ',\n"') + "\n")


def make(name, out):
    generator = torch.Generator().manual_seed(SEED + len(name))
    model = make_model(name, generator)
    work = make_work(random.Random(f"{SEED} {name}"), model.config.vocab_size)
    exact = results(model, work)
    finite_difference = check_gradients(model, work["batch"], exact["grads"], generator)
    zeros = [n for n, g in exact["grads"].items() if g.abs().max() < 1e-13]
    assert zeros and all(n.endswith("k_proj.bias") for n in zeros), zeros
    assert abs(exact["loss"] - exact["left_loss"]) < 1e-12, "padding on the left changes the loss"
    save_model(model, out / "models" / name)
    save_generation(name, model, out)
    single = results(model.float(), work)
    (out / "sft").mkdir(exist_ok=True)
    save_json(document(name, exact, single, work, zeros, finite_difference), out / "sft" / f"{name}.json")
    save_file(arrays(exact), out / "sft" / f"{name}.safetensors")
    print(f"{name}: loss {exact['loss']:.6f}, same batch {exact['train_same_batch']['losses'][-1]:.6f}, "
          f"central differences within {finite_difference:.1e}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    here = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "data"
    for model_name in MODELS:
        make(model_name, pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here)
