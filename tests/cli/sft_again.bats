#!/usr/bin/env bats
# What a run finds in its output folder: checkpoints that are damaged, of another run, of one that has finished or still runs.

load sft_helpers

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

@test "changed options and data are refused with both values, ranks that take other rows too" {
    sft_cut 3 TERM "$dir/out" "${usual[@]}"
    run -2 sft "$dir/out" "${usual[@]}" --learning_rate 0.01 --resume
    [[ $output == *'--learning_rate was 0.001 and is 0.01'* ]]
    run -2 sft "$dir/out" "${usual[@]}" --num_train_epochs 6 --gradient_checkpointing --resume
    [[ $output == *'--num_train_epochs was 10 and is 6'*'--gradient_checkpointing was false and is true'* ]]
    run -2 sft "$dir/out" "${usual[@]}" --ranks 2 --resume
    [[ $output == *'--per_device_train_batch_size was 8 and is 8'*'of 1 rank where this run has 2'*'as many rows as before'* ]]
    [ "$(grep -c 'as many rows' <<<"$output")" -eq 1 ]
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
    tail -n 20 <&9
    exec 9<&-
    [ "$status" -eq 130 ]
}

# oneDNN's products do not bear a handler on the thread that computes.
# Without malloc's caches a damaged heap is found sooner.
@test "signals at any moment change no bit" {
    storm() {
        while kill -USR1 $pid 2>/dev/null; do sleep 0.001; done
    }
    sft "$dir/whole" -q "${usual[@]}"
    GLIBC_TUNABLES=glibc.malloc.tcache_count=0 sft_cut 3 storm "$dir/out" "${usual[@]}"
    [ "$status" -eq 0 ]
    same_run "$dir/whole" "$dir/out"
}

# bats test_tags=long
@test "a folder that a run writes to is refused, and the other process named" {
    other() {
        run -2 sft "$dir/out" "${usual[@]}" --resume
        there=$(cat "$dir/out/run.lock")
    }
    sft_cut 3 other "$dir/out" "${usual[@]}" --num_train_epochs 40
    [ "$status" -eq 0 ]
    [[ $there == 'process '*' on '* ]]
    [[ $output == *"another run writes to \"$dir/out\": $there"*'another --output'* ]]
    [ ! -e "$dir/out/run.lock" ]
    sft_cut 3 KILL "$dir/killed" "${usual[@]}"
    [ -e "$dir/killed/run.lock" ] # nobody holds it
    sft "$dir/killed" -q "${usual[@]}" --resume
    [ ! -e "$dir/killed/run.lock" ]
}

@test "a signal is seen during an evaluation, which the resumed run makes whole" {
    "$bin" data new -q "$dir/data" --records 64 --eval_records 400
    local with=(--data "$dir/data" --eval_batches -1 --per_device_eval_batch_size 1 --save_interval 3 --eval_interval 3
        --num_train_epochs 1)
    sft "$dir/whole" -q "${with[@]}"
    [ "$(grep -c eval_loss "$dir/whole/metrics.jsonl")" -eq 4 ] # at 0, 3, 6, and 8, where the epoch ends
    sft_cut 3 INT "$dir/cut" "${with[@]}"
    [ "$status" -eq 130 ]
    [ "$(grep -c eval_loss "$dir/cut/metrics.jsonl")" -eq 1 ]
    sft "$dir/cut" -q "${with[@]}" --resume
    same_run "$dir/whole" "$dir/cut"
}
