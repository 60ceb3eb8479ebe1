#!/usr/bin/env bats
# What a run leaves behind, whether its numbers can be relied on, and how it ends when they cannot.

load sft_helpers

setup_file() {
    make_home
    sft "$home/run" -q --num_train_epochs 2 --save_interval 5 --eval_batches -1
}

python=/opt/venv/bin/python
need_python() {
    [ -x "$python" ] && "$python" -c "import $1" 2>/dev/null || skip "no Python with $1 here"
}

@test "a run leaves every file of the contract" {
    for f in config.json model.safetensors vocab.json merges.txt metrics.jsonl run.json checkpoint-15/manifest.json; do
        [ -s "$home/run/$f" ]
    done
    ls "$home"/run/events.out.tfevents.*
    for key in options versions machine seed planned measured techniques records; do
        grep -q "^  \"$key\": " "$home/run/run.json"
    done
    tr -d ' \n' <"$home/run/run.json" >"$dir/flat"
    grep -q '"learning_rate":{"value":0.001,"origin":"default"}' "$dir/flat"
    grep -q '"max_seq_len":{"value":128,"origin":"commandline"}' "$dir/flat"
    grep -q '"records":{"train":64,"eval":8,"skipped":0}' "$dir/flat"
    ! ls -A "$home/run" | grep -qE 'tmp|^\.'
}

@test "metrics.jsonl has one object an update, with every key" {
    [ "$(grep -c '"loss":' "$home/run/metrics.jsonl")" -eq 16 ]
    [ "$(grep -cE '^\{"step":[0-9]+,"phase":"sft","loss":[0-9.]+,"lr":[0-9.e-]+,"grad_norm":[0-9.]+,"tokens":[0-9]+,"seconds":[0-9.e-]+,"joules":(null|[0-9.]+),"peak_bytes":[0-9]+\}$' \
        "$home/run/metrics.jsonl")" -eq 16 ]
    [ "$(grep -c '"eval_loss":' "$home/run/metrics.jsonl")" -eq 3 ]
}

@test "the model that is left gives the loss that the run told" {
    told=$(grep '"eval_loss"' "$home/run/metrics.jsonl" | tail -1 | sed 's/.*"eval_loss":\([0-9.]*\).*/\1/')
    run -0 --separate-stderr "$bin" eval -q --model "$home/run" --data "$home/data" --max_seq_len 128 --json
    near "$(sed 's/.*"loss": \([0-9.]*\).*/\1/' <<<"$output")" "$told" 1e-6
    [[ $output == *'"records": 8,'* ]]
    no_leaks_of_mpi
    run -0 --separate-stderr "$bin" eval -q --model "$home/run" --data "$home/data" --max_seq_len 128 --ranks 2 --json \
        --per_device_eval_batch_size 4
    [ "$(wc -l <<<"$output")" -eq 1 ]
    near "$(sed 's/.*"loss": \([0-9.]*\).*/\1/' <<<"$output")" "$told" 0.02
    run -2 "$bin" eval --model "$home/run" --data "$home/data" --max_seq_len 128 --eval_batches 0
}

@test "transformers loads the model and finds the same loss" {
    need_python transformers
    printf '{"prompt": "Count the days.", "chosen": " There are seven days in a week.", "rejected": " Nine."}\n' >"$dir/one.jsonl"
    run -0 --separate-stderr "$bin" eval -q --model "$home/run" --data "$dir/one.jsonl" --max_seq_len 128 --json
    ours=$(sed 's/.*"loss": \([0-9.]*\).*/\1/' <<<"$output")
    "$bin" tokenize --model "$home/run" --jsonl <<<'{"text": "Count the days. There are seven days in a week."}' >"$dir/ids"
    run -0 --separate-stderr "$python" -c '
import json, sys, torch, transformers
m = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
t = transformers.AutoTokenizer.from_pretrained(sys.argv[1], use_fast=False)
text = "Count the days. There are seven days in a week."
ids = t(text)["input_ids"]
assert ids == json.load(open(sys.argv[2]))["ids"], "the tokenizer differs"
x = torch.tensor([ids + [t.eos_token_id]])
for rows in (x, x[:, :-1]):
    print(float(m.eval()(rows, labels=rows).loss))' "$home/run" "$dir/ids"
    near "$ours" "${lines[0]}" 1e-4 || near "$ours" "${lines[1]}" 1e-4
}

@test "TensorBoard reads the events" {
    need_python tensorboard
    run -0 --separate-stderr "$python" -c '
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
a = EventAccumulator(sys.argv[1]); a.Reload()
print(len(a.Scalars("train/loss")), len(a.Scalars("eval/loss")), a.Scalars("train/lr")[0].value)' "$home/run"
    [[ $output == "16 3 0.001"* ]]
}

@test "runs repeat bit for bit" {
    sft "$dir/again" -q --num_train_epochs 2 --eval_batches -1
    same_run "$home/run" "$dir/again"
    sft "$dir/two" -q --num_train_epochs 2 --threads 2 --dtype bf16
    sft "$dir/two_again" -q --num_train_epochs 2 --threads 2 --dtype bf16
    same_run "$dir/two" "$dir/two_again"
}

@test "losses do not depend on the rank count beyond the order of sums" {
    # One row a micro-batch: micro-batches are averaged as they are, however many ids each has.
    with=(-q --batch_size 1 --dropout 0.1 --max_steps 40 --eval_batches 0)
    sft "$dir/one" "${with[@]}" --gradient_accumulation_steps 2
    sft "$dir/two" "${with[@]}" --ranks 2
    paste -d' ' <(grep -o '"loss":[0-9.]*' "$dir/one/metrics.jsonl" | cut -d: -f2) \
        <(grep -o '"loss":[0-9.]*' "$dir/two/metrics.jsonl" | cut -d: -f2) >"$dir/pairs"
    [ "$(wc -l <"$dir/pairs")" -eq 40 ]
    while read -r a b; do near "$a" "$b" 1e-5; done <"$dir/pairs"
}

# bats test_tags=long
@test "under plain mpirun one line of result, one message, and the exit status of the failure" {
    no_leaks_of_mpi
    sft_words "$dir/out" -q --json
    run -0 --separate-stderr mpirun -n 2 --bind-to none "$bin" "${words[@]}"
    [ "$(grep -c '"schema_version"' <<<"$output")" -eq 1 ]
    [[ $output == *'"ranks": 2'* ]]
    sft_words "$dir/out2" --memory_limit 1MiB
    run -3 --separate-stderr mpirun -n 2 --bind-to none "$bin" "${words[@]}"
    [ "$(grep -c 'tuneup: error' <<<"$stderr")" -eq 1 ]
    run -3 --separate-stderr "$bin" "${words[@]}" --ranks 2
    [ "$(grep -c 'tuneup: error' <<<"$stderr")" -eq 1 ]
    [ ! -e "$dir/out2" ]
    sft_words "$dir/out2" --ranks 3
    run -2 --separate-stderr mpirun -n 2 --bind-to none "$bin" "${words[@]}"
    [[ $stderr == *'--ranks is 3, but 2 were started'* ]]
}

@test "a loss or weight that is no number stops the run and spares the last checkpoint" {
    with=(--learning_rate 10 --weight_decay 10 --max_grad_norm 0 --lr_scheduler_type constant --num_train_epochs 50)
    run -1 sft "$dir/out" "${with[@]}" --save_interval 1 --keep 1
    [[ $output == *'error: the '*'not finite'* || $output == *'error: the loss is '*'where: update '* ]]
    [[ $output == *'--learning_rate'* ]]
    [ ! -e "$dir/out/model.safetensors" ]
    [ "$(ls -d "$dir"/out/checkpoint-* | wc -l)" -eq 1 ]
    grep -q '"eval_loss"' "$dir/out/metrics.jsonl"
    run -1 sft "$dir/out" "${with[@]}" --save_interval 1 --keep 1 --resume
    [[ $output == *'going on from step '* ]]
    run -1 sft "$dir/two" "${with[@]}" --ranks 2
    [ ! -e "$dir/two/model.safetensors" ]
}

@test "a limit of memory is told before anything is there" {
    run -3 sft "$dir/out" --memory_limit 1MiB
    [[ $output == *'error: the run needs '*'and the limit is 1'*'param '*'optimizer '*'hint: '* ]]
    [ ! -e "$dir/out" ]
    run -3 "$bin" plan sft --model opt-1.3b --batch_size 8 --memory_limit 24GiB
    [[ $output == *'hint: --'*' less) would fit, with '* ]]
    run -2 sft "$dir/out" --memory_limit lots
    [[ $output == *'"lots" is no amount of memory'* ]]
}

@test "a file size limit ends the run with the file's name, and nothing half-written" {
    run -1 bash -c 'source "$1"; ulimit -f 64; trap "" XFSZ; sft "$2" -q' - "$BATS_TEST_DIRNAME/sft_helpers.bash" "$dir/out"
    [[ $output == *'could not write'*"$dir/out/model.safetensors"*'File too large'* ]]
    [ ! -e "$dir/out/model.safetensors" ]
    ! ls -A "$dir/out" | grep -q tmp
}

fill_disk() {
    head -c 10m /dev/zero >"$dir/disk/filler" 2>/dev/null || true
}

@test "a full disk is foreseen; one that fills later leaves the last checkpoint to go on from" {
    mkdir "$dir/disk"
    mount -t tmpfs -o size=4m none "$dir/disk" 2>/dev/null || skip "mounting needs privileges"
    sft_cut 3 fill_disk "$dir/disk/out" --save_interval 3 --num_train_epochs 10 || true
    late=$status
    run sft "$dir/disk/out2" --save_interval 3
    foreseen=$status
    ls -A "$dir/disk" >"$dir/there"
    rm "$dir/disk/filler"
    status=0
    sft "$dir/disk/out" -q --save_interval 3 --num_train_epochs 10 --resume || status=$?
    ls -d "$dir"/disk/out/* >"$dir/files"
    umount "$dir/disk"
    [ "$late" -eq 1 ]
    grep -qE 'error: .*disk/out.*(free|No space left)' "$dir/log"
    [ "$foreseen" -eq 3 ]
    [[ $output == *'the run will write up to'*'free'* ]]
    ! grep -q out2 "$dir/there" || false
    [ "$status" -eq 0 ]
    grep -q model.safetensors "$dir/files"
}

@test "plan is what the run allocates" {
    for more in "" "--dtype bf16 --gradient_checkpointing --threads 2" "--gradient_accumulation_steps 2 --threads 0"; do
        sft_words "$dir/out" $more --overwrite
        run -0 --separate-stderr "$bin" "${words[@]}" -q --json
        allocated=$(sed -n 's/.*"allocated_bytes": \([0-9]*\).*/\1/p' <<<"$output")
        run -0 --separate-stderr "$bin" plan "${words[@]}" --json
        [ "$(sed -n 's/.*"peak_bytes": \([0-9]*\).*/\1/p' <<<"$output")" = "$allocated" ]
    done
    for key in ranks memory param master grad optimizer activation kv comm workspace peak_bytes flops bytes_moved comm_bytes; do
        [[ $output == *"\"$key\":"* ]]
    done
}

@test "plan answers for any size of model at once" {
    start=$(date +%s%N)
    run -0 --separate-stderr "$bin" plan --model opt-13b --ranks 64 --zero_stage 1 --json
    spent=$((($(date +%s%N) - start) / 1000000))
    echo "# planned in $spent ms" >&3
    [ "$spent" -lt 5000 ]
    [[ $output == *'"ranks": 64'* ]]
}
