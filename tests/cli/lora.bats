#!/usr/bin/env bats
# Adapters beside frozen weights, in each phase: what is learnt and saved, going on bit for bit, and what is refused.

load sft_helpers

adapters=(--lora_dim 4 --lora_learning_rate 1e-2)

setup_file() {
    make_home
    make_judge
    sft "$home/only" -q --num_train_epochs 5 "${adapters[@]}" --only_optimize_lora
    sft "$home/more" -q --num_train_epochs 5 "${adapters[@]}" --learning_rate 1e-3
}

evaluated() {
    "$bin" eval -q --data "$home/data/eval.jsonl" --max_seq_len 128 --json "$@"
}

# Both evaluations give one loss, up to the rounding of a sum.
same_loss() {
    paste <(grep -o '"loss": *[0-9.e+-]*' <<<"$1") <(grep -o '"loss": *[0-9.e+-]*' <<<"$2") |
        awk '{ exit !(NF == 4 && ($2 - $4) ^ 2 < (1e-5 * $2) ^ 2) }'
}

# The names of the tensors in an adapter's file.
names() {
    grep -aoE '"base_model\.[^"]*"' "$1" | tr -d '"'
}

@test "the loss falls, and the saved sum is what base and adapter give together" {
    for run in only more; do
        awk 'NR == 1 { first = $1 } { last = $1 } END { exit !(last < first) }' <(losses "$home/$run")
        same_loss "$(evaluated --model "$home/$run")" \
            "$(evaluated --model "$home/m" --lora_adapter "$home/$run/adapter")"
        run -1 grep -q lora "$home/$run/model.safetensors"
    done
}

@test "an adapter alone is in its folder, or all that has learnt" {
    names "$home/only/adapter/adapter_model.safetensors" >"$dir/only"
    [ "$(wc -l <"$dir/only")" -eq 24 ]
    [ "$(grep -cE '^base_model\.model\.model\.decoder\.layers\.[01]\..*\.lora_[AB]\.weight$' "$dir/only")" -eq 24 ]
    names "$home/more/adapter/adapter_model.safetensors" >"$dir/more"
    grep -qx 'base_model.model.model.decoder.layers.0.fc1.base_layer.bias' "$dir/more"
    grep -qx 'base_model.model.model.decoder.embed_tokens.weight' "$dir/more"
    run -1 grep -q 'fc1.*weight$' <(grep -v lora "$dir/more")
}

@test "an answer is the same with the adapter as with the sum" {
    local with=(--prompt "How many" --max_new_tokens 20 --temperature 0)
    [ "$("$bin" generate -q --model "$home/only" "${with[@]}")" = \
        "$("$bin" generate -q --model "$home/m" --lora_adapter "$home/only/adapter" "${with[@]}")" ]
}

@test "training goes on from an adapter, whose own rank and layers count" {
    sft "$dir/on" -q --max_steps 2 --only_optimize_lora --lora_adapter "$home/only/adapter" --eval_batches -1
    [ "$(names "$dir/on/adapter/adapter_model.safetensors")" = "$(names "$home/only/adapter/adapter_model.safetensors")" ]
    run -0 sft "$dir/again" -q --max_steps 0 --num_train_epochs 1 --lora_adapter "$home/only/adapter" --lora_dim 4
    run -2 sft "$dir/other" -q --lora_adapter "$home/only/adapter" --lora_dim 5
    [[ $output == *'--lora_dim is 5, the adapter has the rank 4'* ]]
}

@test "layers are chosen by the end of their names too" {
    sft "$dir/some" -q --max_steps 1 --lora_dim 2 --lora_target_modules q_proj,layers.1.fc2 --only_optimize_lora
    names "$dir/some/adapter/adapter_model.safetensors" >"$dir/names"
    [ "$(grep -c q_proj "$dir/names")" -eq 4 ]
    [ "$(grep -c layers.1.fc2 "$dir/names")" -eq 2 ]
    [ "$(wc -l <"$dir/names")" -eq 6 ]
    tr -d ' \n' <"$dir/some/adapter/adapter_config.json" |
        grep -qF '"target_modules":["q_proj","model.decoder.layers.1.fc2"]'
    evaluated --model "$home/m" --lora_adapter "$dir/some/adapter"
}

# bats test_tags=long
@test "a killed run resumes in the same bits" {
    kill_and_resume sft "${adapters[@]}" --lora_dropout 0.2 --dtype bf16 --optimizer_bits 8
}

# bats test_tags=long
@test "so does one of 2 ranks with ZeRO-1" {
    who=rank kill_and_resume sft --ranks 2 --zero_stage 1 --num_train_epochs 14 "${adapters[@]}" --only_optimize_lora
}

# bats test_tags=long
@test "so does a reward model" {
    kill_and_resume reward "${adapters[@]}" --only_optimize_lora
    names "$dir/whole/adapter/adapter_model.safetensors" | grep -qx base_model.model.v_head.weight
    same_loss "$(evaluated --phase reward --model "$dir/whole")" \
        "$(evaluated --phase reward --model "$home/m" --lora_adapter "$dir/whole/adapter")"
}

@test "so does PPO, whose actor begins as its own reference" {
    usual=(--ppo_epochs 2 --max_steps 12 --save_interval 3 --actor_dropout 0.1 --enable_ema)
    kill_and_resume ppo "${adapters[@]}" --only_optimize_lora
    head -1 "$dir/whole/metrics.jsonl" | grep -qE '"eval_kl": *0(\.0)?[,}]'
    for model in actor critic actor_ema; do
        run -0 "$bin" model info "$dir/whole/$model"
        [ -e "$dir/whole/$model/adapter/adapter_model.safetensors" ]
        run -1 grep -q lora "$dir/whole/$model/model.safetensors"
    done
    same_loss "$(evaluated --model "$dir/whole/actor_ema")" \
        "$(evaluated --model "$home/m" --lora_adapter "$dir/whole/actor_ema/adapter")"
}

@test "weights that do not learn must be the same when a run goes on" {
    cp -r "$home/m" "$dir/m"
    sft "$dir/out" -q --max_steps 2 --save_interval 1 "${adapters[@]}" --model "$dir/m" --no-save_model
    rm "$dir/out/run.json"
    cp "$home/more/model.safetensors" "$dir/m/model.safetensors"
    run -2 sft "$dir/out" -q --max_steps 2 --save_interval 1 "${adapters[@]}" --model "$dir/m" --no-save_model --resume
    [[ $output == *'the weights that do not learn are others'* ]]
}

@test "what cannot be is refused" {
    run -2 sft "$dir/out" --lora_dim -1
    run -2 sft "$dir/out" --only_optimize_lora
    [[ $output == *'without adapters leaves nothing to learn'* ]]
    run -2 sft "$dir/out" --lora_dim 4 --lora_module_name nowhere
    [[ $output == *'--lora_module_name "nowhere" names no linear layer'* ]]
    run -2 evaluated --model "$home/m" --lora_dim 4
    [[ $output == *'changes nothing where nothing learns'* ]]
    train_words reward "$dir/out" --dropout 0 --share_prompts "${adapters[@]}" --lora_dropout 0.1
    run -2 "$bin" "${words[@]}"
    [[ $output == *'--share_prompts with dropout 0.1'* ]]
    [ ! -e "$dir/out" ]
}

@test "an adapter that does not fit is refused before work begins" {
    tiny_model "$dir/wide" -q --hidden_size 64
    run -2 evaluated --model "$dir/wide" --lora_adapter "$home/only/adapter"
    [[ $output == *'lora_A.weight" has shape [4,32], the model needs [4,64]'* ]]
    tiny_model "$dir/deep" -q --num_hidden_layers 3
    run -2 evaluated --model "$dir/deep" --lora_adapter "$home/only/adapter"
    [[ $output == *'the adapter lacks the tensor "layers.2.'* ]]
    tiny_model "$dir/flat" -q --num_hidden_layers 1
    run -2 evaluated --model "$dir/flat" --lora_adapter "$home/only/adapter"
    [[ $output == *'is of nothing that this run has'* ]]
    run -2 evaluated --phase reward --model "$home/judge" --lora_adapter "$home/only/adapter"
    [[ $output == *'the adapter is of a language model, a reward model is to have it'* ]]
    run -2 evaluated --model "$home/m" --lora_adapter "$home/m"
    [[ $output == *'there is no adapter_model.safetensors in'* ]]
    cp -r "$home/only/adapter" "$dir/dora"
    sed -i 's/"fan_in_fan_out": false/"use_dora": true/' "$dir/dora/adapter_config.json"
    run -2 evaluated --model "$home/m" --lora_adapter "$dir/dora"
    [[ $output == *'asks for "use_dora", which is not supported'* ]]
}

@test "a plan of PPO has each frozen weight once" {
    bytes() {
        "$bin" plan ppo --actor opt-125m --critic opt-125m --frozen_dtype as_run --json "$@" |
            grep -oE '"param": [0-9]+' | grep -oE '[0-9]+'
    }
    [ "$(bytes "${adapters[@]}" --only_optimize_lora)" -lt $(($(bytes) * 7 / 10)) ]
}

# Weights, adapters and averages in shards: what is saved is put together again, and what judges is shared all the same.
# bats test_tags=long
@test "in shards it learns alike and saves the same" {
    for phase in sft ppo; do
        local with=("${adapters[@]}" --only_optimize_lora --max_steps 3 --zero_persistence_threshold 100)
        if [ $phase = ppo ]; then with+=(--enable_ema --generation_batch_size 2 --batch_size 2); fi
        for stage in 0 2 3; do
            train_words $phase "$dir/$phase-$stage" -q --ranks 2 --zero_stage $stage "${with[@]}"
            "$bin" "${words[@]}"
        done
        for stage in 2 3; do
            for model in $([ $phase = sft ] && echo . || echo actor actor_ema); do
                local is="$dir/$phase-$stage/$model" want="$dir/$phase-0/$model"
                same_loss "$(evaluated --model "$is")" "$(evaluated --model "$want")"
                same_loss "$(evaluated --model "$home/m" --lora_adapter "$is/adapter")" "$(evaluated --model "$want")"
            done
        done
    done
}

# From files the numbers are the same bits; a run in shards goes on without them.
# bats test_tags=long
@test "weights in files, and a run that goes on with other ranks" {
    local with=("${adapters[@]}" --only_optimize_lora --max_steps 4)
    sft "$dir/memory" -q "${with[@]}"
    sft "$dir/files" -q "${with[@]}" --offload --offload_params
    cmp "$dir/memory/model.safetensors" "$dir/files/model.safetensors"
    cmp "$dir/memory/adapter/adapter_model.safetensors" "$dir/files/adapter/adapter_model.safetensors"
    who=rank sft_cut 2 KILL "$dir/cut" "${with[@]}" --save_interval 2 --ranks 2 --zero_stage 3 --zero_persistence_threshold 100 \
        --batch_size 4 --max_steps 40
    run -0 sft "$dir/cut" "${with[@]}" --save_interval 2 --max_steps 40 --resume
    [[ $output == *'the checkpoint is of 2 ranks, this run has 1'* ]]
}
