# Predictions: tuneup plan --machine, the local profile, --optimize.

load sft_helpers

setup_file() {
    make_home
    export TUNEUP_PROFILE=$home/profile.json
    no_leaks_of_mpi
    "$bin" doctor --profile --quick --threads 1 -q >"$home/doctor.txt"
}

teardown_file() {
    rm -r "$home"
}

setup() {
    dir=$(mktemp -d "$home/XXXXXX")
    export TUNEUP_PROFILE=$home/profile.json
}

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
    [[ $output != *'--flash_attention is '* ]]
    grep -q '"goal": "memory"' "$dir/out/run.json"
    tr -d '\n' <"$dir/out/run.json" | grep -q '"gradient_checkpointing": {[^}]*"value": true,[^}]*"origin": "optimize"'
    tr -d '\n' <"$dir/out/run.json" | grep -q '"flash_attention": {[^}]*"value": false,[^}]*"origin": "command line"'
    tr -d '\n' <"$dir/out/run.json" | grep -q '"dtype": {[^}]*"value": "fp32"' # exact techniques alone
    sft_words "$dir/plan" --max_steps 1
    run -0 "$bin" plan "${words[@]}" --optimize all --json
    [[ $output == *'--dtype bf16 is '*'"optimize": ['*'"words": "--dtype bf16"'* ]]
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
