#!/usr/bin/env bats
# "tuneup model": what it makes can be shown, and mistakes are told with their mend.

bats_require_minimum_version 1.5.0

setup() {
    bin=${TUNEUP_BIN:-$BATS_TEST_DIRNAME/../../build/release/tuneup}
    dir=$(mktemp -d)
}

teardown() {
    rm -rf "$dir"
}

@test "model new makes a folder that model info finds whole" {
    run -0 --separate-stderr "$bin" model new --size opt-tiny --vocab_size 64 --json "$dir/m"
    [[ $output == *'"parameters": 867328'* ]]
    run -0 --separate-stderr "$bin" model info --values "$dir/m"
    [[ $output == *'867,328'* && $output == *'problems     none'* ]]
}

@test "model new makes a reward model" {
    run -0 "$bin" model new -q --size opt-tiny --vocab_size 64 --value_head --json "$dir/m"
    [[ $output == *'"parameters": 867456'* ]]
    run -0 --separate-stderr "$bin" model info "$dir/m"
    [[ $output == *'reward model'*'867,456'* ]]
}

@test "the same seed makes the same weights, another one others" {
    for at in "a 1" "b 1" "c 2"; do
        set -- $at
        run -0 "$bin" model new -q --size opt-tiny --vocab_size 64 --seed "$2" "$dir/$1"
    done
    cmp "$dir/a/model.safetensors" "$dir/b/model.safetensors"
    run -1 cmp -s "$dir/a/model.safetensors" "$dir/c/model.safetensors"
}

@test "bf16 halves the file" {
    run -0 "$bin" model new -q --size opt-tiny --vocab_size 64 --dtype bf16 "$dir/m"
    run -0 "$bin" model info --json "$dir/m"
    [[ $output == *'"bytes": 1734656'* && $output == *'"dtype": "bf16"'* ]]
}

@test "mistakes are refused before anything is written" {
    run -2 "$bin" model new --size opt-huge "$dir/m"
    [[ $output == *'The sizes are opt-tiny'* ]]
    run -2 "$bin" model new --size opt-tiny --num_attention_heads 5 "$dir/m"
    [[ $output == *'nearest number of heads that does is 4'* ]]
    run -2 "$bin" model new --size opt-tiny
    run -2 "$bin" model new "$dir/m"
    [[ $output == *'--size is not given'* ]]
    run -2 "$bin" model new --size opt-tiny --tokenizer "$dir" "$dir/m"
    [ ! -e "$dir/m" ]
}

@test "a model is never written over" {
    run -0 "$bin" model new -q --size opt-tiny --vocab_size 64 "$dir/m"
    run -2 "$bin" model new -q --size opt-tiny "$dir/m"
    [[ $output == *'already'* ]]
}

@test "a config that does not fit the weights is a problem with exit status 2" {
    run -0 "$bin" model new -q --size opt-tiny --vocab_size 64 "$dir/m"
    sed -i 's/"num_hidden_layers": 4/"num_hidden_layers": 5/' "$dir/m/config.json"
    run -2 "$bin" model info "$dir/m"
    [[ $output == *'16 of 84 tensors are missing: layers.4.self_attn.k_proj.weight'* ]]
    run -2 "$bin" model info "$dir/none"
    [[ $output == *'no config.json'* ]]
}
