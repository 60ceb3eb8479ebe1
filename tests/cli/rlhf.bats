#!/usr/bin/env bats
# The three phases in one command: fed by each other, stopped anywhere, and gone on with.

load sft_helpers

# rlhf OUTPUT WORDS...
rlhf() {
    local output=$1
    shift
    "$bin" rlhf --model "$home/m" --data "$home/data" --output "$output" --max_seq_len 128 --threads 1 \
        --per_device_train_batch_size 8 --ppo_max_prompt_seq_len 100 --ppo_max_answer_seq_len 8 \
        --ppo_generation_batch_size 8 --ppo_batch_size 4 "$@"
}

@test "three phases from scratch, each fed by the one before" {
    run -0 --separate-stderr rlhf "$dir/out" -q --save_interval 1 --json
    [ "$(jq -r '.phases | map(.phase) | join(" ")' <<<"$output")" = "sft reward ppo" ]
    [ "$(jq '.phases[0].perplexity > 1' <<<"$output")" = true ]
    [ "$(jq '.phases[1].eval_accuracy >= 0' <<<"$output")" = true ]
    [ "$(jq '.phases[2] | has("eval_reward") and .seconds > 0 and .peak_bytes > 0' <<<"$output")" = true ]
    [ "$(jq -r '.options.model_name_or_path.value' "$dir/out/reward/run.json")" = "$dir/out/sft" ]
    [ "$(jq -r '.options.actor_model_name_or_path.value' "$dir/out/run.json")" = "$dir/out/sft" ]
    [ "$(jq -r '.options.critic_model_name_or_path.value' "$dir/out/run.json")" = "$dir/out/reward" ]
    jq -e '.phases | length == 3' "$dir/out/rlhf.json"
    run -0 "$bin" generate -q --model "$dir/out/actor" --prompt "Human: 1 + 1?" --max_new_tokens 2 --threads 1
}

@test "a run that is stopped in phase 2 goes on there, with the same result" {
    rlhf "$dir/whole" -q --reward_num_train_epochs 8 --save_interval 2
    mkfifo "$dir/pipe"
    "$bin" rlhf -v --model "$home/m" --data "$home/data" --output "$dir/cut" --max_seq_len 128 --threads 1 \
        --per_device_train_batch_size 8 --ppo_max_prompt_seq_len 100 --ppo_max_answer_seq_len 8 \
        --ppo_generation_batch_size 8 --ppo_batch_size 4 --reward_num_train_epochs 8 --save_interval 2 \
        2>"$dir/pipe" >"$dir/stdout" 3>&- &
    pid=$!
    exec 9<"$dir/pipe"
    while read -r line <&9; do
        [[ $line == *'phase 2 of 3'* ]] && break
    done
    while read -r line <&9; do
        [[ $line == *'checkpoint at step 2' ]] && break
    done
    kill -INT $pid
    cat <&9 >"$dir/log"
    exec 9<&-
    status=0
    wait $pid || status=$?
    cat "$dir/log"
    [ "$status" -eq 130 ]
    grep -q 'stopped in phase 2 (reward)' "$dir/log"
    [ ! -e "$dir/cut/actor" ]
    rlhf "$dir/cut" -q --reward_num_train_epochs 8 --save_interval 2 --resume
    cmp "$dir/whole/reward/model.safetensors" "$dir/cut/reward/model.safetensors"
    cmp "$dir/whole/actor/model.safetensors" "$dir/cut/actor/model.safetensors"
}

@test "options go to the phases that have them, and one phase can be told otherwise" {
    rlhf "$dir/out" -q --seed 7 --reward_seed 8 --dtype bf16 --sft_learning_rate 1e-4
    [ "$(jq -r '[.options.seed.value, .options.dtype.value, .options.learning_rate.value] | join(" ")' \
        "$dir/out/sft/run.json")" = "7 bf16 0.0001" ]
    [ "$(jq -r .options.seed.value "$dir/out/reward/run.json")" = 8 ]
    [ "$(jq -r .options.seed.value "$dir/out/run.json")" = 7 ]
}

@test "what cannot be is said by the phase that cannot" {
    run -2 rlhf "$dir/out" -q --reward_learning_rat 1
    [[ $output == *'--reward_learning_rate'* ]]
    run -2 rlhf "$dir/out" -q --resume --overwrite
    [[ $output == *'exclude each other'* ]]
    run -2 "$bin" rlhf --model "$home/m"
    [[ $output == *'--data and --output are needed'* ]]
    sed 's/"rejected"/"worse"/' "$home/data/train.jsonl" >"$dir/one.jsonl"
    run -2 "$bin" rlhf -q --model "$home/m" --data "$dir/one.jsonl" --output "$dir/out2" --max_seq_len 128 --threads 1 \
        --per_device_train_batch_size 8
    [[ $output == *rejected* ]]
    [ ! -e "$dir/out2/actor" ]
}
