#!/usr/bin/env bats
# Whatever ends a run, it goes on bit for bit; and what it may not go on with is refused.

load sft_helpers

setup_file() {
    make_home
}

teardown_file() {
    rm -rf "$home"
}

setup() {
    dir=$(mktemp -d)
}

teardown() {
    rm -rf "$dir"
}

usual=(--gradient_accumulation_steps 2 --num_train_epochs 10 --dropout 0.1 --save_interval 3)

# kill_and_resume WORDS...: the same run, whole and killed.
kill_and_resume() {
    sft "$dir/whole" -q "${usual[@]}" "$@"
    sft_cut 9 KILL "$dir/killed" "${usual[@]}" "$@"
    [ "$status" -eq 137 ]
    [ ! -e "$dir/killed/model.safetensors" ]
    grep -q '"state": "running"' "$dir/killed/run.json"
    run -0 sft "$dir/killed" "${usual[@]}" "$@" --resume
    [[ $output == *'going on from step '* ]]
    same_run "$dir/whole" "$dir/killed"
}

@test "a killed run that resumes ends in the same bits" {
    kill_and_resume
    grep -q '"state": "finished"' "$dir/killed/run.json"
    [ "$(grep -c '"loss"' "$dir/killed/metrics.jsonl")" -eq 40 ]
}

@test "in bf16 with gradient checkpointing too" {
    kill_and_resume --dtype bf16 --gradient_checkpointing
}

@test "a rank killed at 2 ranks with ZeRO-1 ends all, and the run resumes in the same bits" {
    local with=("${usual[@]}" --ranks 2 --zero_stage 1 --num_train_epochs 14)
    sft "$dir/whole" -q "${with[@]}"
    who=rank sft_cut 9 KILL "$dir/killed" "${with[@]}"
    [ "$status" -ne 0 ]
    [ ! -e "$dir/killed/model.safetensors" ]
    run -0 sft "$dir/killed" "${with[@]}" --resume
    [[ $output == *'going on from step '* ]]
    same_run "$dir/whole" "$dir/killed"
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

@test "a damaged newest checkpoint is left for the one before, and it is said" {
    sft "$dir/whole" -q "${usual[@]}"
    sft_cut 9 KILL "$dir/killed" "${usual[@]}"
    newest=$(ls -d "$dir"/killed/checkpoint-* | sort -t- -k2 -n | tail -1)
    printf X | dd of="$newest/shared" bs=1 seek=1000 conv=notrunc status=none
    run -0 sft "$dir/killed" "${usual[@]}" --resume
    [[ $output == *"damaged and are dropped: ${newest##*/}"* ]]
    same_run "$dir/whole" "$dir/killed"
}

@test "without a whole checkpoint a resume is refused, not begun again" {
    sft_cut 3 TERM "$dir/killed" "${usual[@]}"
    for c in "$dir"/killed/checkpoint-*; do
        truncate -s 100 "$c/shared"
    done
    run -2 sft "$dir/killed" "${usual[@]}" --resume
    [[ $output == *'no checkpoint in'*'is whole; damaged: checkpoint-'* && $output == *'--overwrite'* ]]
}

@test "changed options, data and rank counts are refused with both values" {
    sft_cut 3 TERM "$dir/out" "${usual[@]}"
    run -2 sft "$dir/out" "${usual[@]}" --learning_rate 0.01 --resume
    [[ $output == *'--learning_rate was 0.001 and is 0.01'* ]]
    run -2 sft "$dir/out" "${usual[@]}" --num_train_epochs 6 --gradient_checkpointing --resume
    [[ $output == *'--num_train_epochs was 10 and is 6'*'--gradient_checkpointing was false and is true'* ]]
    run -2 sft "$dir/out" "${usual[@]}" --ranks 2 --resume
    [[ $output == *'the checkpoint is of 1 ranks, this run has 2'*'--ranks 1'* ]]
    [ "$(grep -c 'of 1 ranks' <<<"$output")" -eq 1 ]
    cp -r "$home/data" "$dir/data"
    sed -i '3d' "$home/data/train.jsonl"
    run -2 sft "$dir/out" "${usual[@]}" --resume
    cp "$dir/data/train.jsonl" "$home/data/train.jsonl"
    [[ $output == *'cannot resume with other data'* ]]
    run -2 sft "$dir/out" --overwrite --resume
    [[ $output == *'exclude each other'* ]]
}

@test "a finished run resumes to nothing, and is never lost unasked" {
    sft "$dir/out" -q --save_interval 8
    cp "$dir/out/model.safetensors" "$dir/first"
    run -0 sft "$dir/out" --save_interval 8 --resume
    [[ $output == *'has finished: nothing is left to do'* ]]
    run -2 sft "$dir/out" --learning_rate 0.01 --resume
    [[ $output == *'was 0.001 and is 0.01'* ]]
    run -2 sft "$dir/out"
    [[ $output == *'already holds checkpoints of a run'*'--resume'*'--overwrite'* ]]
    rm -r "$dir"/out/checkpoint-*
    run -2 sft "$dir/out"
    [[ $output == *'already holds a model'*'--overwrite'* ]]
    cmp "$dir/first" "$dir/out/model.safetensors"
    run -2 sft "$home/m"
    [[ $output == *'already holds a model'* ]]
    sft "$dir/out" -q --seed 5 --overwrite
    run -1 cmp -s "$dir/first" "$dir/out/model.safetensors"
}

@test "a resume at the last step evaluates and saves as the run would have" {
    sft "$dir/whole" -q --save_interval 4
    cp -r "$dir/whole" "$dir/cut"
    sed -i 's/"state": "finished"/"state": "running"/' "$dir/cut/run.json"
    sed -i '$d' "$dir/cut/metrics.jsonl"
    rm "$dir/cut/model.safetensors"
    sft "$dir/cut" -q --save_interval 4 --resume
    same_run "$dir/whole" "$dir/cut"
    grep -q '"eval_loss": [0-9]' "$dir/cut/run.json"
}

@test "a new run in the place of an old one keeps its own checkpoints" {
    sft "$dir/out" -q --save_interval 4 --num_train_epochs 4 --keep 1
    sft "$dir/out" -q --save_interval 4 --overwrite --keep 1
    [ "$(cd "$dir/out" && echo checkpoint-*)" = checkpoint-8 ]
}

@test "SIGUSR1 prints status, a second SIGINT ends at once" {
    sft_cut 3 USR1 "$dir/out" "${usual[@]}"
    [ "$status" -eq 0 ]
    grep -qE '^step [0-9]+/40, loss [0-9.]+, [0-9]+ s left' "$dir/log"
    # Two signals of one number would merge: the second goes when the first has been seen.
    sft_words "$dir/slow" --num_train_epochs 1000 --save_interval 1 -v
    mkfifo "$dir/held"
    "$bin" "${words[@]}" 2>"$dir/held" 3>&- &
    pid=$!
    exec 9<"$dir/held"
    while read -r line <&9; do [[ $line == *'checkpoint at step 2' ]] && break; done
    kill -STOP $pid
    kill -INT $pid
    kill -CONT $pid
    kill -INT $pid
    status=0
    wait $pid || status=$?
    exec 9<&-
    [ "$status" -eq 130 ]
}
