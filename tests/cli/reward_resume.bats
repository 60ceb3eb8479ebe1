#!/usr/bin/env bats
# Whatever ends the training of a reward model, it goes on bit for bit.

load sft_helpers

@test "a killed run that resumes ends in the same bits, evaluations in between and all" {
    kill_and_resume reward --num_train_epochs 6 --eval_interval 3
    [ "$(grep -c '"loss"' "$dir/killed/metrics.jsonl")" -eq 24 ]
    [ "$(grep -c '"eval_loss"' "$dir/killed/metrics.jsonl")" -eq 13 ] # 0, 3, 6 .. 24 and 4, 8, 16, 20
}

# bats test_tags=long
@test "in bf16 with gradient checkpointing too" {
    kill_and_resume reward --num_train_epochs 5 --dtype bf16 --gradient_checkpointing
}

# bats test_tags=long
@test "a rank killed at 2 ranks with ZeRO-1 ends all, and the run resumes in the same bits" {
    who=rank kill_and_resume reward --num_train_epochs 14 --ranks 2 --zero_stage 1
}

@test "a signal leaves a run that goes on in its own phase alone" {
    local with=("${usual[@]}" --num_train_epochs 4)
    train_words reward "$dir/whole" -q "${with[@]}"
    "$bin" "${words[@]}"
    train_cut reward 3 INT "$dir/cut" "${with[@]}"
    [ "$status" -eq 130 ]
    sft_words "$dir/cut" "${with[@]}" --resume
    run -2 "$bin" "${words[@]}"
    [[ $output == *'cannot resume a run of reward as one of sft'* ]]
    train_words reward "$dir/cut" -q "${with[@]}" --resume
    "$bin" "${words[@]}"
    same_run "$dir/whole" "$dir/cut"
}
