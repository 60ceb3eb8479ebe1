#!/usr/bin/env bats
# Phase 3 from the command line: what a run writes, that it goes on bit for bit, and what is refused.

load sft_helpers

ppo() {
    ppo_words "$@"
    "$bin" "${words[@]}"
}

setup_file() {
    make_home
    make_judge
}

setup() {
    dir=$(mktemp -d)
    usual=(--gradient_accumulation_steps 2 --ppo_epochs 2 --max_steps 12 --save_interval 3 --actor_dropout 0.1
        --critic_dropout 0.1 --enable_ema)
}

@test "a run writes models, metrics and what was asked" {
    run -0 --separate-stderr ppo "$dir/out" --max_steps 3 --sample_interval 1 --enable_ema --eval_interval 2
    for model in actor critic actor_ema; do
        [ -e "$dir/out/$model/vocab.json" ]
        run -0 "$bin" model info "$dir/out/$model"
    done
    [ "$(grep -c '"loss":' "$dir/out/metrics.jsonl")" -eq 3 ]
    [ "$(grep -c '"eval_reward":' "$dir/out/metrics.jsonl")" -eq 3 ] # 0, 2, 3
    for key in critic_loss reward true_share kl entropy clip_fraction ratio_lowest ratio_highest explained_variance \
        answer_tokens generate_seconds score_seconds train_seconds; do
        [ "$(grep -c "\"$key\":[-0-9]" "$dir/out/metrics.jsonl")" -ge 3 ]
    done
    grep -q '"phase": "ppo"' "$dir/out/run.json"
    grep -q '"state": "finished"' "$dir/out/run.json"
    grep -q '"actor_learning_rate"' "$dir/out/run.json"
}

@test "sample texts come with their score, and prompts that are too long are counted" {
    run -0 --separate-stderr ppo "$dir/out" --max_steps 2 --sample_interval 1 --max_prompt_seq_len 90
    [ "$(grep -c 'an answer with the score' <<<"$stderr")" -eq 2 ]
    [[ $stderr =~ [0-9]+' prompts are longer than --max_prompt_seq_len 90 and are left out' ]]
}

@test "in DeepSpeed-Chat's convention it is greedy, and the average and two epochs work" {
    ppo "$dir/out" -q --max_steps 2 --convention deepspeed-chat --ppo_epochs 2
    tr -d ' \n' <"$dir/out/run.json" | grep -q '"temperature":{"value":0'
}

@test "answers by weights in int8 learn too, and no copy is saved" {
    run -0 --separate-stderr ppo "$dir/out" --max_steps 2 --save_interval 1 --int8_generation
    [ "$(grep -c '"loss":' "$dir/out/metrics.jsonl")" -eq 2 ]
    run -1 grep -q int8 "$dir/out/actor/model.safetensors"
}

@test "a killed run that resumes ends in the same bits" {
    kill_and_resume ppo --unsupervised_data "$home/data/eval.jsonl" --unsup_coef 0.5
}

# bats test_tags=long
@test "in bf16 with gradient checkpointing of one model too" {
    kill_and_resume ppo --dtype bf16 --critic_gradient_checkpointing --normalize_advantages
}

# bats test_tags=long
@test "a rank killed at 2 ranks with ZeRO-1 ends all, and the run resumes in the same bits" {
    who=rank kill_and_resume ppo --ranks 2 --zero_stage 1 --max_steps 40 --generation_batch_size 2 --batch_size 2
}

@test "SIGINT finishes the iteration, saves and leaves with 130" {
    ppo "$dir/whole" -q "${usual[@]}"
    train_cut ppo 3 INT "$dir/cut" "${usual[@]}"
    [ "$status" -eq 130 ]
    ppo "$dir/cut" -q "${usual[@]}" --resume
    same_run "$dir/whole" "$dir/cut"
}

@test "a folder that holds models is left alone, a finished run is not repeated" {
    ppo "$dir/out" -q --max_steps 1
    run -2 ppo "$dir/out" --max_steps 1
    [[ $output == *'already holds a model'* ]]
    run -0 ppo "$dir/out" --max_steps 1 --resume
    [[ $output == *'nothing is left to do'* ]]
}

@test "models of the wrong sort are refused" {
    run -2 ppo "$dir/out" --critic "$home/m"
    [[ $output == *'is a language model: it has no v_head.weight'* ]]
    run -2 ppo "$dir/out" --actor "$home/judge"
    [[ $output == *'is a reward model'* ]]
    [ ! -e "$dir/out" ]
}

@test "a reward model of another tokenizer is refused" {
    cp -r "$home/judge" "$dir/judge"
    "$bin" tokenizer train -q --data "$home/data/eval.jsonl" --vocab_size 512 --output "$dir/tok"
    cp "$dir/tok"/* "$dir/judge/"
    run -2 ppo "$dir/out" --reward_model_name_or_path "$dir/judge"
    [[ $output == *"the tokenizer in \"$dir/judge\" is not the actor's"* ]]
}

@test "sizes that cannot be are refused" {
    run -2 ppo "$dir/out" --max_answer_seq_len 60
    [[ $output == *'has 128 positions'* ]]
    run -2 ppo "$dir/out" --generation_batches 3 --gradient_accumulation_steps 2
    [[ $output == *'does not divide the 3 micro-batches of an iteration'* ]]
    run -2 ppo "$dir/out" --max_prompt_seq_len 4
    [[ $output == *'are longer than 4 ids'* ]]
    run -2 "$bin" ppo --actor "$home/m" --data "$home/data" --output "$dir/out"
    [[ $output == *'--critic_model_name_or_path is missing'* ]]
}

@test "answers of one id are learnt from" {
    ppo "$dir/out" -q --max_steps 2 --max_answer_seq_len 1
    grep -q '"answer_tokens":[01]' "$dir/out/metrics.jsonl"
}

@test "answers are as long as asked" {
    ppo "$dir/out" -q --max_steps 1 --max_answer_seq_len 6 --min_answer_seq_len 6
    grep -q '"answer_tokens":6.0,"ended_share":0.0' "$dir/out/metrics.jsonl"
    run -2 ppo "$dir/out" --max_answer_seq_len 6 --min_answer_seq_len 7
    [[ $output == *'--min_answer_seq_len 7 is more than --max_answer_seq_len 6'* ]]
}

@test "what is planned is what a run allocates" {
    ppo "$dir/out" -q --max_steps 1
    allocated=$(sed -n 's/.*"allocated_bytes": \([0-9]*\).*/\1/p' "$dir/out/run.json")
    ppo_words "$dir/out"
    run -0 "$bin" plan "${words[@]}" --json
    [[ $output == *"\"peak_bytes\": $allocated"* ]]
    run -3 "$bin" plan "${words[@]}" --memory_limit 1MiB
    [[ $output == *'No switch makes it fit here'* ]]
}

@test "two ranks answer as one does, and learn the same within rounding" {
    with=(--max_steps 3 --actor_dropout 0 --critic_dropout 0 --normalize_advantages --enable_ema -q)
    ppo "$dir/one" "${with[@]}"
    for stage in '--zero_stage 1' '--actor_zero_stage 2 --critic_zero_stage 3'; do
        # shellcheck disable=SC2086 # words
        ppo "$dir/two" "${with[@]}" --ranks 2 $stage --generation_batch_size 2 --batch_size 2 --overwrite
        for key in reward answer_tokens; do
            diff <(grep -o "\"$key\":[-0-9.]\{1,7\}" "$dir/one/metrics.jsonl") <(grep -o "\"$key\":[-0-9.]\{1,7\}" "$dir/two/metrics.jsonl")
        done
        paste -d' ' <(grep -o '"critic_grad_norm":[0-9.]*' "$dir/one/metrics.jsonl" | cut -d: -f2) \
            <(grep -o '"critic_grad_norm":[0-9.]*' "$dir/two/metrics.jsonl" | cut -d: -f2) >"$dir/norms"
        [ "$(wc -l <"$dir/norms")" -eq 3 ]
        awk '{ d = $1 - $2; if (d * d > 1e-8 * $1 * $1) exit 1 }' "$dir/norms"
        for model in actor critic actor_ema; do # the same tensors
            for run in one two; do
                grep -aoE '"[a-z_.]*[a-z0-9_.]+(weight|bias)":' "$dir/$run/$model/model.safetensors" | sort >"$dir/$run.names"
            done
            [ "$(wc -l <"$dir/one.names")" -gt 20 ]
            diff "$dir/one.names" "$dir/two.names"
        done
    done
}

@test "weights in shards give the same bits, gathered once a rollout or layer by layer" {
    with=(--max_steps 2 --enable_ema --unsupervised_data "$home/data/eval.jsonl" --unsup_coef 0.5 -q --ranks 2 --zero_persistence_threshold 100 --generation_batch_size 2 --batch_size 2)
    ppo "$dir/two" "${with[@]}" --zero_stage 2
    ppo "$dir/once" "${with[@]}" --zero_stage 3
    ppo "$dir/layers" "${with[@]}" --zero_stage 3 --zero_generation layers
    same_run "$dir/two" "$dir/once"
    same_run "$dir/two" "$dir/layers"
}
