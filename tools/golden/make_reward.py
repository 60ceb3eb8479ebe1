#!/usr/bin/env python3
"""Makes tests/golden/data/reward: two tiny random reward models, and what phase 2 computes with them in double precision.

    tools/golden/make_reward.py [OUTPUT_FOLDER]

The decoder is transformers' OPTModel, the head and the losses are written here from their definitions: DeepSpeed-Chat's, which
infers from ids where a row ends, and this project's two, which know it. Schema: tests/golden/data/README.md.
"""
import pathlib
import random
import sys

import torch
import transformers
from safetensors.torch import save_file

from make_golden import (END, MODELS, NO_LOOKUP, SEED, SHARED_CONFIG, T, check_gradients, gradients_of, largest_difference,
                         losses_apart, norm_of, random_weights, run_from, save_json, save_model, settings, tensors)

LEADING = 1    # num_padding_at_beginning
SOME = ("v_head.weight", "embed_tokens.weight", "layers.0.fc1.weight", "layers.0.final_layer_norm.weight",
        "layers.1.self_attn.q_proj.weight")    # the gradients that are kept of this project's losses


class Reward(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.v_head = torch.nn.Linear(config.word_embed_proj_dim, 1, bias=False)
        self.rwtransformer = transformers.OPTModel(config)

    def forward(self, batch):
        ids, mask = tensors(batch)
        hidden = self.rwtransformer(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return self.v_head(hidden).squeeze(-1)


def make_model(name, generator):
    config = transformers.OPTConfig(**MODELS[name], **SHARED_CONFIG)
    config._attn_implementation = "sdpa"
    model = Reward(config).double().eval()
    random_weights(model, generator)
    return model


# ---- rows: (ids that both answers share, ids of the chosen answer's own, of the rejected one's)

def pair_rows(rng, vocabulary, lengths):
    chosen, rejected = [], []
    for shared, own_chosen, own_rejected in lengths:
        prompt = [END] + [rng.randrange(3, vocabulary) for _ in range(shared - 1)]
        first = rng.sample(range(3, vocabulary), 2)    # the first ids that differ
        for rows, own, begin in ((chosen, own_chosen, first[0]), (rejected, own_rejected, first[1])):
            answer = [begin] + [rng.randrange(3, vocabulary) for _ in range(own - 1)]
            rows.append(prompt + answer[:own])
    ids = [row + [END] * (T - len(row)) for row in chosen + rejected]
    return {"input_ids": ids, "attention_mask": [[1] * len(r) + [0] * (T - len(r)) for r in chosen + rejected]}


# ---- what a pair compares: columns of the chosen row and of the rejected row, one list each; and the columns of their scores

def by_ids(chosen, rejected):
    def end_of(row):
        places = [t for t, x in enumerate(row) if x == END]
        return places[LEADING] if len(places) > LEADING else T
    c, r = end_of(chosen), end_of(rejected)
    different = [t for t in range(T) if chosen[t] != rejected[t]]
    begin, end = (different[0], max(c, r)) if different else (T - 1, T)
    r = r if different else c
    return list(range(begin, end)), list(range(begin, end)), c - 1, r - 1


def texts(chosen, rejected, n_chosen, n_rejected):
    a, b = chosen[:n_chosen], rejected[:n_rejected]
    same = next((t for t, (x, y) in enumerate(zip(a, b)) if x != y), min(n_chosen, n_rejected))
    return same, max(n_chosen, n_rejected), a == b


def masked(chosen, rejected, n_chosen, n_rejected):
    same, end, _ = texts(chosen, rejected, n_chosen, n_rejected)
    columns = range(same, end)
    return ([min(t, n_chosen - 1) for t in columns], [min(t, n_rejected - 1) for t in columns], n_chosen - 1, n_rejected - 1)


def end_scores(chosen, rejected, n_chosen, n_rejected):
    equal = texts(chosen, rejected, n_chosen, n_rejected)[2]
    return [] if equal else [n_chosen - 1], [] if equal else [n_rejected - 1], n_chosen - 1, n_rejected - 1


def compared(batch, kind):
    ids, lengths = batch["input_ids"], [sum(m) for m in batch["attention_mask"]]
    half = len(ids) // 2
    for p in range(half):
        yield by_ids(ids[p], ids[half + p]) if kind == "deepspeed-chat" else \
            {"masked": masked, "end": end_scores}[kind](ids[p], ids[half + p], lengths[p], lengths[half + p])


def pair_losses(scores, batch, kind):
    half = scores.shape[0] // 2
    for p, (c, r, _, _) in enumerate(compared(batch, kind)):
        x = scores[p][c] - scores[half + p][r]
        yield -torch.nn.functional.logsigmoid(x).mean() if c else torch.log(scores.new_tensor(2.0))


def loss_of(kind):
    return lambda model, batch: torch.stack(list(pair_losses(model(batch), batch, kind))).mean()


def summary(scores, batch, kind, gradients):
    half = scores.shape[0] // 2
    places = [(p, c, r) for p, (_, _, c, r) in enumerate(compared(batch, kind))]
    chosen = torch.stack([scores[p][c] for p, c, _ in places])
    rejected = torch.stack([scores[half + p][r] for p, _, r in places])
    return {"loss": torch.stack(list(pair_losses(scores, batch, kind))).mean().item(),
            "accuracy": (chosen > rejected).double().mean().item(),
            "mean_chosen_score": chosen.mean().item(), "mean_rejected_score": rejected.mean().item(),
            "grad_norm": norm_of(gradients.values())}


def pairs_of(scores, batch):
    half = scores.shape[0] // 2
    losses = [x.item() for x in pair_losses(scores, batch, "deepspeed-chat")]
    return [{"c_ind": c + 1, "r_ind": r + 1, "divergence": columns[0], "end": columns[-1] + 1, "loss": losses[p],
             "chosen_score": scores[p][c].item(), "rejected_score": scores[half + p][r].item()}
            for p, (columns, _, c, r) in enumerate(compared(batch, "deepspeed-chat"))]


# ---- one model's files

KINDS = ("deepspeed-chat", "masked", "end")


def results(model, work):
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    out = {"grads": {kind: gradients_of(model, work["batch"], loss_of(kind)) for kind in KINDS}}
    with torch.no_grad():
        out["scores"] = model(work["batch"])
    out["sums"] = {kind: summary(out["scores"], work["batch"], kind, out["grads"][kind]) for kind in KINDS}
    for key, run in work["runs"].items():
        out[key], out[key + ".final"] = run_from(weights, model, run["settings"], run["batches"], run["n_updates"],
                                                 loss_of("deepspeed-chat"))
    return out


def float32_errors(exact, single, work, zeros):
    return {
        "scores": largest_difference(exact["scores"], single["scores"]),
        "loss": max(abs(exact["sums"][k]["loss"] - single["sums"][k]["loss"]) for k in KINDS),
        "grads": max(largest_difference(g, single["grads"][k][n]) for k in KINDS for n, g in exact["grads"][k].items()),
        "train_losses": max(losses_apart(exact[k], single[k]) for k in work["runs"]),
        "train_final": max(largest_difference(w, single[k + ".final"][n]) for k in work["runs"]
                           for n, w in exact[k + ".final"].items() if n not in zeros),
    }


def bfloat16_error(model, exact, batch):
    """How far the loss strays in the whole model's own bf16; what is compared stays in fp32."""
    with torch.no_grad():
        scores = model(batch).float()
        return max(abs(torch.stack(list(pair_losses(scores, batch, k))).mean().item() - exact["sums"][k]["loss"]) for k in KINDS)


def make_work(rng, vocabulary):
    # the chosen text ends first; the rejected one does; no padding; one is the other's beginning; both ways; the same texts
    batch = pair_rows(rng, vocabulary, [(5, 2, 7), (4, 8, 3), (T - 3, 3, 3), (6, 0, 4), (7, 3, 0), (9, 0, 0)])
    batch["input_ids"][0][2] = batch["input_ids"][6][2] = NO_LOOKUP
    batches = [pair_rows(rng, vocabulary, [(4, 3 + u, 9 - u), (6, 5, 1 + u)]) for u in range(5)]
    return {"batch": batch, "runs": {
        "train": {"settings": settings(3e-3, 0.1, 1, 5), "batches": batches, "n_updates": 5},
        "train_same_batch": {"settings": settings(3e-3, 0.0, 0, 16), "batches": [batch], "n_updates": 8}}}


def document(name, exact, single, rough, work, zeros, finite_difference):
    runs = {key: {**run["settings"], **exact[key]} for key, run in work["runs"].items()}
    runs["train"]["batches"] = work["runs"]["train"]["batches"]
    return {
        "model": f"models/{name}-reward",
        "made_with": {"torch": torch.__version__, "transformers": transformers.__version__, "seed": SEED},
        "num_padding_at_beginning": LEADING,
        **work["batch"],
        "pairs": pairs_of(exact["scores"], work["batch"]),
        **exact["sums"]["deepspeed-chat"], "masked": exact["sums"]["masked"], "end": exact["sums"]["end"],
        **runs,
        "float32_error": float32_errors(exact, single, work, zeros),
        "bfloat16_error": rough,
        "zero_gradient_tensors": zeros,
        "finite_difference": finite_difference,
    }


def arrays(exact):
    out = {"scores": exact["scores"]}
    out.update({f"grad.{n}": g for n, g in exact["grads"]["deepspeed-chat"].items()})
    for kind in ("masked", "end"):
        out.update({f"{kind}_grad.{n}": g for n, g in exact["grads"][kind].items() if n.endswith(SOME)})
    out.update({f"final.{n}": w for n, w in exact["train.final"].items()})
    return {n: x.detach().float().contiguous() for n, x in out.items()}


def make(name, out):
    generator = torch.Generator().manual_seed(SEED + 100 + len(name))
    model = make_model(name, generator)
    work = make_work(random.Random(f"{SEED} reward {name}"), model.config.vocab_size)
    exact = results(model, work)
    finite_difference = max(check_gradients(model, work["batch"], exact["grads"][k], generator, loss_of(k)) for k in KINDS)
    zeros = [n for n, g in exact["grads"]["deepspeed-chat"].items() if g.abs().max() < 1e-13]
    assert zeros and all(n.endswith(("k_proj.bias", "final_layer_norm.bias")) for n in zeros), zeros
    save_model(model, out / "models" / f"{name}-reward", "OPTModel")
    single = results(model.float(), work)
    rough = bfloat16_error(model.bfloat16(), exact, work["batch"])
    (out / "reward").mkdir(exist_ok=True)
    save_json(document(name, exact, single, rough, work, zeros, finite_difference), out / "reward" / f"{name}.json")
    save_file(arrays(exact), out / "reward" / f"{name}.safetensors")
    told = ", ".join(f"{k} {v['loss']:.6f}" for k, v in exact["sums"].items())
    print(f"{name}: {told}, same batch {exact['train_same_batch']['losses'][-1]:.6f}, "
          f"central differences within {finite_difference:.1e}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    here = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "data"
    for model_name in MODELS:
        make(model_name, pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here)
