#!/usr/bin/env bats
# What cannot be done is refused before anything is written, with what, where and the mend; and what can be mended, is not
# refused twice.

load sft_helpers

# refused TEXT... -- WORDS...: exit 2, all the texts, one error, nothing made
refused() {
    local texts=()
    while [ "$1" != -- ]; do
        texts+=("$1")
        shift
    done
    shift
    run -2 sft "$dir/out" "$@"
    for text in "${texts[@]}"; do
        [[ $output == *"$text"* ]] || { echo "no \"$text\" in: $output" >&2; return 1; }
    done
    [[ $output == 'tuneup: error: '* ]]
    [ ! -e "$dir/out" ]
}

@test "options that are wrong or unknown" {
    refused 'unknown option --learning_rat' 'Did you mean --learning_rate?' -- --learning_rat 1
    refused '--dtype is "fp8", it must be fp32|bf16|fp16' -- --dtype fp8
    refused 'nothing to shard on one rank' '--ranks 2' -- --zero_stage 1
    refused '--dropout is "2"' 'from -1 to 0.99' -- --dropout 2
    refused '--max_seq_len is 500, the model has 128 positions' '--max_seq_len 128 or less' -- --max_seq_len 500
    refused 'unexpected word "extra"' -- extra
    for name in model data output; do
        sft_words "$dir/out"
        given=()
        for ((i = 1; i < ${#words[@]}; i += 2)); do
            [ "${words[i]}" = "--$name" ] || given+=("${words[@]:i:2}")
        done
        run -2 "$bin" sft "${given[@]}"
        [[ $output == *"--$name is missing"*'hint: Name '* ]]
    done
}

@test "no model, or half of one" {
    refused "no model in \"$dir/none\"" 'tuneup model new' -- --model "$dir/none"
    cp -r "$home/m" "$dir/m"
    sed -i '/ffn_dim/d' "$dir/m/config.json"
    refused 'ffn_dim is missing' "where: $dir/m/config.json" -- --model "$dir/m"
    cp "$home/m/config.json" "$dir/m"
    truncate -s 100000 "$dir/m/model.safetensors"
    refused 'lie inside' "where: file \"$dir/m/model.safetensors\", tensor" 'damaged or cut short' -- --model "$dir/m"
    rm "$dir/m/model.safetensors"
    refused 'hint: ' -- --model "$dir/m"
}

@test "weights that are no numbers, unless they are allowed" {
    cp -r "$home/m" "$dir/m"
    printf '\x00\x00\xc0\x7f' | dd of="$dir/m/model.safetensors" bs=1 seek=100000 conv=notrunc status=none
    refused 'tensor "layers.0.self_attn.out_proj.weight" holds a NaN' "file \"$dir/m/model.safetensors\"" -- --model "$dir/m"
    run -1 sft "$dir/out" --model "$dir/m" --allow_nonfinite
    [[ $output == *'error: the loss is '*'where: evaluation after update 0'* ]]
    [ ! -e "$dir/out/model.safetensors" ]
}

@test "a tokenizer that is not there, or of another model" {
    cp -r "$home/m" "$dir/m"
    rm "$dir/m/vocab.json"
    refused 'no tokenizer' "$dir/m" 'tuneup tokenizer train' -- --model "$dir/m"
    "$bin" model new -q --size opt-tiny --vocab_size 300 "$dir/small"
    cp "$home"/tok/* "$dir/small"
    refused 'the tokenizer has ids up to 511, the model has embeddings for 300' "$dir/small" -- --model "$dir/small"
}

@test "data that is not there, empty, or no records" {
    refused "could not open \"$dir/none\"" 'tuneup data new' -- --data "$dir/none"
    : >"$dir/empty.jsonl"
    refused 'no record' "$dir/empty.jsonl" -- --data "$dir/empty.jsonl"
    mkfifo "$dir/fifo"
    refused "\"$dir/fifo\" is a FIFO" -- --data "$dir/fifo"
    refused 'neither train.jsonl nor train.json' "$home/m" -- --data "$home/m"
    refused 'no record of' '--data_split is 0,1,0' '"1,0,0"' -- --data_split 0,1,0
}

@test "a bad line by its number, or left out and counted" {
    sed '7s/.*/{"prompt": 3}/; 9s/.*/{/' "$home/data/train.jsonl" >"$dir/lines.jsonl"
    refused '"prompt" is not a string' "file \"$dir/lines.jsonl\", line 7" '--skip_bad_records' -- --data "$dir/lines.jsonl"
    run -0 sft "$dir/out" --data "$dir/lines.jsonl" --skip_bad_records --max_steps 1
    [[ $output == *'2 faulty records were left out:'*'line 7: "prompt" is not a string'*'line 9: '* ]]
    [[ $output == *'updates, '*'2 faulty records were left out'* ]]
    grep -q '"skipped": 2' "$dir/out/run.json"
}

@test "several sets are split one by one and mixed" {
    "$bin" data new -q "$dir/other" --records 40 --eval_records 6 --seed 3
    run -0 sft "$dir/both" -q --data "$home/data" "$dir/other/train.jsonl" --eval_batches -1 --max_steps 2 --json
    [[ $(tr -d ' \n' <<<"$output") == *'"records":{"train":100,"eval":12,"skipped":0}'* ]] # 64 + 36, 8 + 4
    run -0 sft "$dir/turned" -q --data "$dir/other/train.jsonl" "$home/data" --max_steps 2
    run -1 cmp -s "$dir/both/model.safetensors" "$dir/turned/model.safetensors"
    run -0 sft "$dir/more" -q --sft_only_data_path "$dir/other" --data_split 0,1,0 --max_steps 2 --json
    [[ $(tr -d ' \n' <<<"$output") == *'"records":{"train":40,"eval":6,"skipped":0}'* ]]
    refused "could not open \"$dir/none\"" -- --data "$home/data" "$dir/none"
    run -0 "$bin" eval --model "$home/m" --data "$home/data" "$dir/other" --max_seq_len 128 --json
    [[ $output == *'"records": 14,'* ]]
}

@test "an output that cannot be" {
    : >"$dir/file"
    run -2 sft "$dir/file"
    [[ $output == *"the output \"$dir/file\" cannot be written to: it is not a folder"* ]]
    run -2 sft "$dir/file/x"
    [[ $output == *"\"$dir/file/x\" cannot be written to: Not a directory"* ]]
    run -2 sft /dev/full
    [[ $output == *'it is not a folder'* ]]
    [ ! -s "$dir/file" ]
    mkdir "$dir/closed"
    if mount -t tmpfs -o size=1m,ro none "$dir/closed" 2>/dev/null; then
        run sft "$dir/closed"
        umount "$dir/closed"
        [ "$status" -eq 2 ]
        [[ $output == *'Read-only file system'* ]]
    fi
}

@test "results to a full disk or a closed pipe" {
    run -1 bash -c '"$1" plan --model opt-125m --json >/dev/full' - "$bin"
    [[ $output == *'could not write to standard output'* ]]
    run bash -c 'set -o pipefail; "$1" plan --model opt-125m --steps | head -1' - "$bin"
    [[ $output != *rror* ]]
}

@test "eval and plan refuse alike" {
    run -2 "$bin" eval --model "$home/m" --data "$home/data" --max_seq_len 500
    [[ $output == *'the model has 128 positions'* ]]
    run -2 "$bin" eval --model "$home/m"
    [[ $output == *'--model and --data are needed'* ]]
    run -2 "$bin" eval --model "$home/m" --data "$home/data" --phase rewrad
    run -2 "$bin" plan --model opt-14b
    [[ $output == *'opt-13b'* ]]
    run -2 "$bin" plan --model opt-125m --zero_stage 1
    [[ $output == *'--ranks 2'* ]]
    run -2 "$bin" plan sfd --model opt-125m
    [[ $output == *'no phase "sfd"'* ]]
}
