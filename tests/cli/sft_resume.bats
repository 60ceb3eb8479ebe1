#!/usr/bin/env bats
# Whatever ends a run, it goes on bit for bit.

load sft_helpers

@test "a killed run that resumes ends in the same bits" {
    kill_and_resume sft
    grep -q '"state": "finished"' "$dir/killed/run.json"
    [ "$(grep -c '"loss"' "$dir/killed/metrics.jsonl")" -eq 40 ]
}

@test "in bf16 with gradient checkpointing too" {
    kill_and_resume sft --dtype bf16 --gradient_checkpointing
}

@test "a rank killed at 2 ranks with ZeRO-1 ends all, and the run resumes in the same bits" {
    who=rank kill_and_resume sft --ranks 2 --zero_stage 1 --num_train_epochs 14
}

# bats test_tags=long
@test "so does one of 3 ranks with ZeRO-2" {
    who=rank kill_and_resume sft --ranks 3 --zero_stage 2 --num_train_epochs 20
}

# bats test_tags=long
@test "so does one of 3 ranks with ZeRO-3, in the same bits as with ZeRO-2" {
    who=rank kill_and_resume sft --ranks 3 --zero_stage 3 --dtype bf16 --num_train_epochs 20
    sft "$dir/stage2" -q "${usual[@]}" --ranks 3 --zero_stage 2 --dtype bf16 --num_train_epochs 20
    same_run "$dir/stage2" "$dir/whole"
}

@test "a rank that hangs is named by those who wait for it, and ends the run" {
    who=rank sft_cut 1 STOP "$dir/out" --ranks 2 --zero_stage 2 --num_train_epochs 10000 --save_interval 1 --comm_timeout 2
    [ "$status" -ne 0 ]
    # before the two have met, or while they are at it
    grep -qE 'rank 0 of 2 on .* failed, which ends the run: .* has waited 2 s for rank 1 on |rank 0 on .* ends the run: all ranks began an? ' "$dir/log"
    ls -d "$dir"/out/checkpoint-*
}

@test "a run goes on in other shards with the same bits, and at other ranks with the same numbers" {
    local with=("${usual[@]}" --num_train_epochs 6 --zero_persistence_threshold 100)
    sft "$dir/whole" -q "${with[@]}" --batch_size 6 --ranks 2 --zero_stage 2
    sft_cut 3 TERM "$dir/cut" "${with[@]}" --batch_size 6 --ranks 2 --zero_stage 3
    cp -r "$dir/cut" "$dir/other"
    run -0 sft "$dir/cut" "${with[@]}" --batch_size 6 --ranks 2 --zero_stage 2 --resume
    [[ $output == *'going on with other shards: --zero_stage was 3 and is 2'* ]]
    same_run "$dir/whole" "$dir/cut"
    run -0 sft "$dir/other" "${with[@]}" --batch_size 4 --ranks 3 --zero_stage 1 --resume
    [[ $output == *'the checkpoint is of 2 ranks, this run has 3'* ]]
    # a rank's mean is over its own ids: others than before share them
    paste <(grep -o '"loss":[0-9.]*' "$dir/whole/metrics.jsonl" | cut -d: -f2) \
        <(grep -o '"loss":[0-9.]*' "$dir/other/metrics.jsonl" | cut -d: -f2) >"$dir/losses"
    [ "$(wc -l <"$dir/losses")" -eq 18 ]
    awk '{ d = ($1 - $2) / $1; if (d * d > 4e-6) exit 1 }' "$dir/losses"
}

@test "SIGINT and SIGTERM finish the step, save and leave with 130 and 143" {
    sft "$dir/whole" -q "${usual[@]}"
    for pair in INT:130 TERM:143; do
        sft_cut 3 "${pair%:*}" "$dir/${pair#*:}" "${usual[@]}"
        [ "$status" -eq "${pair#*:}" ]
        grep -q 'stopped by a signal after saving a checkpoint' "$dir/log"
        grep -q -- '--resume goes on' "$dir/log"
        grep -q '"state": "stopped"' "$dir/${pair#*:}/run.json"
        sft "$dir/${pair#*:}" -q "${usual[@]}" --resume
        same_run "$dir/whole" "$dir/${pair#*:}"
    done
}

# bats test_tags=long
@test "so they do at 2 ranks through the launcher" {
    local with=("${usual[@]}" --ranks 2 --num_train_epochs 14)
    sft "$dir/whole" -q "${with[@]}"
    for pair in INT:130 TERM:143; do
        sft_cut 3 "${pair%:*}" "$dir/${pair#*:}" "${with[@]}"
        [ "$status" -eq "${pair#*:}" ]
        [ "$(grep -c 'stopped by a signal' "$dir/log")" -eq 1 ]
        grep -q '"state": "stopped"' "$dir/${pair#*:}/run.json"
    done
    sft "$dir/130" -q "${with[@]}" --resume
    same_run "$dir/whole" "$dir/130"
}

@test "a second SIGINT ends ranks at once, and ranks do not outlive the launcher" {
    held() {
        kill -INT $pid
        sleep 0.2
        kill -INT $pid 2>/dev/null || : # it may have been that quick
    }
    sft_cut 1 held "$dir/out" --ranks 2 --num_train_epochs 10000 --save_interval 1
    [ "$status" -eq 130 ]

    sft_cut 1 KILL "$dir/out2" --ranks 2 --num_train_epochs 10000 --save_interval 1
    [ "$status" -eq 137 ] # the ranks hold the pipe: sft_cut has seen it close
}
