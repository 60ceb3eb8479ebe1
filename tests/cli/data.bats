#!/usr/bin/env bats
# tuneup data new and data check.

setup() {
    bin=${TUNEUP_BIN:-$BATS_TEST_DIRNAME/../../build/release/tuneup}
    dir=$(mktemp -d)
}

teardown() {
    rm -rf "$dir"
}

@test "data new writes what data check reads" {
    "$bin" data new "$dir/d" --records 30 --eval_records 5 --seed 3 -q
    [ "$(wc -l <"$dir/d/train.jsonl")" -eq 30 ]
    [ "$(wc -l <"$dir/d/eval.jsonl")" -eq 5 ]
    run "$bin" data check "$dir/d"
    [ "$status" -eq 0 ]
    [[ $output == *"30 good, 0 bad"* ]]
    [[ $output == *"5 good, 0 bad"* ]]
}

@test "data new repeats itself and replaces nothing unasked" {
    "$bin" data new "$dir/a" --records 20 --seed 9 -q
    "$bin" data new "$dir/b" --records 20 --seed 9 -q
    cmp "$dir/a/train.jsonl" "$dir/b/train.jsonl"
    run "$bin" data new "$dir/a" --records 20 --seed 10 -q
    [ "$status" -eq 2 ]
    [[ $output == *"--force"* ]]
    cmp "$dir/a/train.jsonl" "$dir/b/train.jsonl"
    "$bin" data new "$dir/a" --records 20 --seed 10 -q --force
    ! cmp -s "$dir/a/train.jsonl" "$dir/b/train.jsonl"
}

@test "data check lists bad records and exits 2" {
    printf '{"prompt": "p", "chosen": "c", "rejected": "c"}\nrubbish\r\n\n{"prompt": 1}\n' >"$dir/f.jsonl"
    run "$bin" data check "$dir/f.jsonl"
    [ "$status" -eq 2 ]
    [[ $output == *"1 good, 2 bad"* ]]
    [[ $output == *"line 2: not valid JSON"* ]]
    [[ $output == *"line 4: \"prompt\" is not a string"* ]]
    [[ $output == *"equal answers, the first on line 1"* ]]
}

@test "data check --json is one object with stable keys" {
    printf '[{"prompt": "ab", "chosen": "cde"}]' | gzip >"$dir/f.gz"
    run "$bin" data check "$dir/f.gz" --json
    [ "$status" -eq 0 ]
    [[ $output == *'"records":1,"bad":0'* ]]
    [[ $output == *'"prompt_chosen":{"records":1,"p10":5,'* ]]
    [[ $output == *'"prompt_rejected":null'* ]]
}

@test "what cannot be read is refused by what it is" {
    run "$bin" data check "$dir/nothing"
    [ "$status" -eq 2 ]
    mkfifo "$dir/fifo"
    run "$bin" data check "$dir/fifo"
    [ "$status" -eq 2 ]
    [[ $output == *"a FIFO"* ]]
    run "$bin" data check "$dir"
    [ "$status" -eq 2 ]
    [[ $output == *"train.jsonl"* ]]
    run "$bin" data check
    [ "$status" -eq 2 ]
}
