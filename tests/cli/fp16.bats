#!/usr/bin/env bats
# --dtype fp16: the scale of the loss, updates that are skipped, and going on bit for bit after them.

load sft_helpers

setup_file() {
    make_home
    make_judge
}

# Overflows at first, and again whenever the scale has grown: before the checkpoint and after it.
overflows=(--dtype fp16 --initial_scale_power 24 --loss_scale_hysteresis 1 --loss_scale_window 4)

skips() {
    grep -c '"grad_norm":null' "$1/metrics.jsonl"
}

@test "the losses are fp32's, and the model is in fp16" {
    sft "$dir/32" -q "${usual[@]}" --learning_rate 3e-3
    sft "$dir/16" "${usual[@]}" --learning_rate 3e-3 --dtype fp16 2>"$dir/log"
    near_losses 0.001 "$dir/32" "$dir/16"
    grep -q 'fp16 is converted and multiplied in fp32 here' "$dir/log"
    grep -q '"loss_scale":65536.0,"skipped_updates":0' "$dir/16/metrics.jsonl"
    grep -q '"skipped_updates": 0' "$dir/16/run.json"
    grep -q '"fp16"' "$dir/16/run.json"
    run -0 "$bin" model info "$dir/16" --json
    [[ $output == *'"dtype": "fp16"'* ]]
}

# bats test_tags=long
@test "a reward model learns in fp16" {
    train_words reward "$dir/32" -q "${usual[@]}" --max_steps 12
    "$bin" "${words[@]}"
    train_words reward "$dir/16" -q "${usual[@]}" --max_steps 12 --dtype fp16
    "$bin" "${words[@]}"
    near_losses 0.001 "$dir/32" "$dir/16"
}

# bats test_tags=long
@test "a killed run that skips updates resumes in the same bits" {
    kill_and_resume sft "${overflows[@]}"
    [ "$(skips "$dir/whole")" -gt 6 ]
    grep '"step":[1-9],' "$dir/whole/metrics.jsonl" | grep -q '"grad_norm":null'
    tail -n 20 "$dir/whole/metrics.jsonl" | grep -q '"grad_norm":null'
    grep -q "\"skipped_updates\": $(skips "$dir/whole")" "$dir/killed/run.json"
}

# bats test_tags=long
@test "so does one of 2 ranks with ZeRO-2, offload and gradient checkpointing" {
    who=rank kill_and_resume sft "${overflows[@]}" --ranks 2 --zero_stage 2 --offload --gradient_checkpointing \
        --num_train_epochs 20
    [ "$(skips "$dir/whole")" -gt 6 ]
}

@test "so does ppo, where actor and critic have their own scales" {
    local usual=(--gradient_accumulation_steps 2 --ppo_epochs 2 --max_steps 14 --save_interval 3 --enable_ema)
    kill_and_resume ppo "${overflows[@]}" --critic_initial_scale_power 30 --actor_zero_stage 0
    grep -q '"critic_loss_scale":' "$dir/whole/metrics.jsonl"
    awk -F'[:,]' '{ for (i = 1; i < NF; i++) { if ($i == "\"loss_scale\"") a = $(i + 1); if ($i == "\"critic_loss_scale\"") c = $(i + 1) }
        if (a && c && a != c) found = 1 } END { exit !found }' "$dir/whole/metrics.jsonl"
    grep -q '"critic_skipped_updates": [1-9]' "$dir/whole/run.json"
}

@test "an overflow at the smallest scale ends the run, and says why" {
    run -1 sft "$dir/out" --dtype fp16 --initial_scale_power 30 --min_loss_scale 536870912
    [[ $output == *'the gradient is not finite: "grad/'* && $output == *'update 3'* ]]
    [[ $output == *'The loss scale is 536870912 already, its --min_loss_scale: training has diverged'* ]]
    [ ! -e "$dir/out/model.safetensors" ]
    run -2 sft "$dir/out2" --dtype fp16 --min_loss_scale 131072
    [[ $output == *'the loss scale begins at 2^16, below --min_loss_scale 131072'* ]]
}

@test "text is made in fp16, of a model in fp16" {
    tiny_model "$dir/m" --dtype fp16
    run -0 "$bin" model info "$dir/m" --json
    [[ $output == *'"dtype": "fp16"'* ]]
    for rows in 1 12; do # one by kernels of few rows, the others by those of many
        "$bin" generate -q --model "$dir/m" --threads 1 --max_new_tokens 6 --temperature 0 --batch_size $rows \
            --dtype fp16 $(printf -- '--prompt word%s ' $(seq $rows)) >"$dir/16.$rows"
        "$bin" generate -q --model "$dir/m" --threads 1 --max_new_tokens 6 --temperature 0 --batch_size $rows \
            $(printf -- '--prompt word%s ' $(seq $rows)) >"$dir/32.$rows"
        cmp "$dir/16.$rows" "$dir/32.$rows"
    done
    run -0 "$bin" generate --help
    [[ $output == *'--dtype fp32|bf16|fp16'* && $output != *scale_power* ]]
}
