#!/usr/bin/env bats
# AdamW's moments in 8 bits: what is learnt, alone and in shards that end within a block, and going on bit for bit.

load sft_helpers

near() {
    [ "$(losses "$1" | wc -l)" -ge 12 ]
    near_losses 0.01 "$1" "$2"
}

# bats test_tags=long
@test "the loss falls as with moments in 32 bits" {
    sft "$dir/32" -q "${usual[@]}" --num_train_epochs 20 --learning_rate 3e-3
    sft "$dir/8" -q "${usual[@]}" --num_train_epochs 20 --learning_rate 3e-3 --optimizer_bits 8
    near "$dir/32" "$dir/8"
    awk 'NR == 1 { first = $1 } { last = $1 } END { exit !(last < 0.8 * first) }' <(losses "$dir/8")
}

# bats test_tags=long
@test "so it does in shards of 2 and 3 ranks" {
    for ranks in 2 3; do
        local with=(-q "${usual[@]}" --num_train_epochs 16 --learning_rate 3e-3 --ranks $ranks --zero_stage 1)
        sft "$dir/32" "${with[@]}" --overwrite
        sft "$dir/8" "${with[@]}" --optimizer_bits 8 --dtype bf16 --overwrite
        near "$dir/32" "$dir/8"
    done
}

@test "a killed run resumes in the same bits" {
    kill_and_resume sft --optimizer_bits 8 --dtype bf16
}

# bats test_tags=long
@test "so does one of 3 ranks with ZeRO-1" {
    who=rank kill_and_resume sft --optimizer_bits 8 --ranks 3 --zero_stage 1 --num_train_epochs 20
}
