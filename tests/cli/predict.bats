# Predictions: tuneup plan --machine, the local profile, --optimize.

load sft_helpers

setup_file() {
    make_home
    export TUNEUP_PROFILE=$home/profile.json
    no_leaks_of_mpi
    "$bin" doctor --profile --quick --threads 1 -q >"$home/doctor.txt"
}

setup() {
    dir=$(mktemp -d "$home/XXXXXX")
    export TUNEUP_PROFILE=$home/profile.json
}

# bats test_tags=long
@test "plan --machine predicts the run and every technique, with stable keys" {
    run -0 "$bin" plan sft --model opt-66b --machine h100-sxm --ranks 64 --zero_stage 1
    [[ $output == *'predicted on h100-sxm'*'does NOT fit'*'SpeedUp'*'the plain run'*'--gradient_checkpointing'*'the run as asked'* ]]
    [[ $output == *'All of this is predicted, nothing measured'*'~ is modelled'* ]]
    run -0 --separate-stderr "$bin" plan sft --model opt-125m --machine a100-80gb --json
    for key in prediction source machine memory_bytes fits plain run techniques seconds communication_seconds peak_bytes \
        joules speedup memoryup energyup technique words exact refused energy_source; do
        [[ $output == *"\"$key\": "* ]]
    done
    [[ $output == *'"source": "predicted"'*'"energy_source": "modelled"'* ]]
    [[ $output == *'--zero_stage 1 has nothing to shard on one rank'* ]]
    run -0 "$bin" plan ppo --actor opt-350m --critic opt-350m --machine laptop
    [[ $output == *'--int8_generation'* ]]
}

@test "plan --machine says how long it takes rows to be" {
    local with=(--machine laptop --max_seq_len 64 --no-flash_attention)
    run -0 "$bin" plan sft --model opt-125m "${with[@]}"
    [[ $output == *'rows: all as long as they may be; --data_path'* ]]
    run -0 "$bin" plan sft --model opt-125m "${with[@]}" --mean_length 20
    [[ $output == *'rows: of 20 ids each (--mean_length)'* ]]
    run -0 --separate-stderr "$bin" plan sft --model "$home/m" --data "$home/data" "${with[@]}" --json
    [[ $output == *'"source": "data"'*'"batch_ids": '* ]]
    run -2 "$bin" plan sft --model opt-125m --data "$home/data" --machine laptop
    [[ $output == *'the size "opt-125m", which has no tokenizer'*'--mean_length'* ]]
    run -2 "$bin" plan sft --model "$home/m" --data "$home/data" "${with[@]}" --mean_length 20
    [[ $output == *'--mean_length 20 stands beside --data_path'* ]]
    run -2 "$bin" plan sft --model opt-125m --mean_length 20
    [[ $output == *'changes predictions alone'* ]]
    run -2 "$bin" plan sft --model opt-125m --machine laptop --max_seq_len 64 --mean_length 65
    [[ $output == *'is more than --max_seq_len'* ]]
    run -2 "$bin" plan ppo --actor opt-125m --critic opt-125m --machine laptop --mean_length 20
    [[ $output == *'is for phases 1 and 2'* ]]
}

# Of the last line of a table of --machine.
seconds_of() {
    "$bin" plan sft --model opt-125m --machine laptop --max_seq_len 256 "$@" | awk '/^the run as asked/ { print $5 }'
}

# bats test_tags=long
@test "padding counts where it is worked on, and there alone" {
    awk -v full="$(seconds_of --pad_to_max --mean_length 64)" -v packed="$(seconds_of --remove_padding --mean_length 64)" \
        -v packed_full="$(seconds_of --remove_padding)" -v plain="$(seconds_of)" \
        'BEGIN { exit !(packed < 0.5 * full && full > 0.95 * plain && full < 1.05 * plain && packed_full > 0.95 * plain) }'
    # A search in a run knows its data before it decides.
    for i in {1..24}; do
        echo "{\"prompt\": \"What is $i?\", \"chosen\": \" It is $i.\"}"
    done >"$dir/short.jsonl"
    run -0 "$bin" sft --model "$home/m" --data "$dir/short.jsonl" --max_seq_len 128 --pad_to_max --threads 1 \
        --max_steps 1 --optimize speed --output "$dir/out"
    [[ $output == *'--remove_padding is '* ]]
    grep -q '"rows": "data"' "$dir/out/run.json"
    # What an update is predicted to take is of its live rows, as the whole is.
    awk -v each="$(grep -o '"predicted_seconds":[^,}]*' "$dir/out/metrics.jsonl" | cut -d: -f2)" \
        -v all="$(tr -d ' \n' <"$dir/out/run.json" | grep -o '"prediction":{"seconds":[^,]*' | cut -d: -f3)" \
        'BEGIN { exit !(each > 0.8 * all && each < 1.25 * all) }'
}

@test "a machine that is not there is told with those that are" {
    run -2 "$bin" plan sft --model opt-125m --machine abacus
    [[ $output == *'no machine "abacus"'*'local, a100-40gb'*'laptop'* ]]
    echo '{"format": "tuneup profile", "version": 1, "figures": {"fp32_flops": {"value": -1}}}' >"$dir/bad.json"
    run -2 "$bin" plan sft --model opt-125m --machine "$dir/bad.json"
    [[ $output == *'fp32_flops'*"$dir/bad.json"* ]]
    TUNEUP_PROFILE=$dir/none.json run -4 "$bin" plan sft --model opt-125m --machine local
    [[ $output == *'tuneup doctor --profile'* ]]
}

@test "doctor --profile measures every figure and keeps it" {
    grep -q '^bf16_flops .*measured: ' "$home/doctor.txt"
    grep -q '^link_bandwidth .*measured: ' "$home/doctor.txt"
    grep -q "kept in $TUNEUP_PROFILE" "$home/doctor.txt"
    run -0 "$bin" plan sft --model opt-125m --machine local
    [[ $output == *'predicted on local'* ]]
}

@test "a run stands beside its prediction, and says when there is none" {
    sft "$dir/out" -q --max_steps 3 --measure_warmup 1
    [ "$(grep -c '"predicted_seconds":' "$dir/out/metrics.jsonl")" = 3 ]
    grep -q '"joules_state": "modelled"' "$dir/out/run.json"
    sed 's/"cpu": "/"cpu": "not /' "$TUNEUP_PROFILE" >"$dir/other.json"
    TUNEUP_PROFILE=$dir/other.json sft "$dir/two" -q --max_steps 1
    run -1 grep -q predicted_seconds "$dir/two/metrics.jsonl"
    grep -q '"reason": "the profile in .* is of another machine' "$dir/two/run.json"
    echo '{' >"$dir/torn.json"
    TUNEUP_PROFILE=$dir/torn.json run -0 sft "$dir/three" --max_steps 1
    [[ $output == *'nothing is predicted: '* ]]
}

@test "--optimize says what it switched on, and given words win" {
    run -0 sft "$dir/out" --max_steps 1 --optimize memory --no-flash_attention
    [[ $output == *'--optimize memory predicts '*'--gradient_checkpointing is '*' less'* ]]
    [[ $output == *'left out: --lora_dim 128, '*'; other weights learn with it: --optimize_among any allows it'* ]]
    [[ $output == *'left out: --flash_attention, '*'; it was switched off by a word'* ]]
    [[ $output == *'left out: --dtype bf16, '*'; it changes the numbers: --optimize_among inexact allows it'* ]]
    [[ $output == *'left out: --zero_stage 1; --zero_stage 1 has nothing to shard on one rank'* ]]
    grep -q '"left_out": ' "$dir/out/run.json"
    [[ $output != *'--flash_attention is '* ]]
    grep -q '"goal": "memory"' "$dir/out/run.json"
    tr -d '\n' <"$dir/out/run.json" | grep -q '"gradient_checkpointing": {[^}]*"value": true,[^}]*"origin": "optimize"'
    tr -d '\n' <"$dir/out/run.json" | grep -q '"flash_attention": {[^}]*"value": false,[^}]*"origin": "command line"'
    tr -d '\n' <"$dir/out/run.json" | grep -q '"dtype": {[^}]*"value": "fp32"' # exact techniques alone
    sft_words "$dir/plan" --max_steps 1
    run -0 "$bin" plan "${words[@]}" --optimize all --json
    [[ $output == *'--dtype bf16 is '*'"optimize": ['*'"words": "--dtype bf16"'*'"optimize_left_out": ['*'"--lora_dim 128"'* ]]
    run -0 "$bin" plan "${words[@]}" --optimize memory --optimize_among inexact
    [[ $output == *'--dtype bf16 is '* ]]
    run -2 "$bin" plan "${words[@]}" --optimize_among any
    [[ $output == *'--optimize_among without --optimize'* ]]
    run -0 sft "$dir/two" --max_steps 1 --optimize balanced --ranks 2
    [[ $output == *'--optimize balanced predicts '* ]]
    run -2 "$bin" eval --model "$home/m" --data "$home/data" --optimize speed
    [[ $output == *'--optimize is for what trains'* ]]
    run -2 sft "$dir/out" --optimize everything
    [[ $output == *'off|speed|memory|energy|balanced|all'* ]]
}

@test "without a profile --optimize rests on assumptions, and says so" {
    TUNEUP_PROFILE=$dir/none.json run -0 sft "$dir/out" --max_steps 1 --optimize speed
    [[ $output == *'has no measured profile: '*'rest on assumptions'*'--optimize speed predicts '* ]]
}
