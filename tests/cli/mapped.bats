#!/usr/bin/env bats
# Frozen weights used where they lie in the model's files: the same bits in every phase, counted as planned, and what happens to
# such files.

load sft_helpers

adapters=(--lora_dim 4 --only_optimize_lora)

setup_file() {
    make_home
    tiny_model "$home/half" --dtype bf16
    make_judge
}

# number NAME FOLDER: each of that name in the record of a run.
number() {
    grep -o "\"$1\": [0-9]*" "$2/run.json" | grep -o '[0-9]*$'
}

# same_mapped PHASE WORDS...: with --map_frozen and without, the same run; as many bytes less in memory as are mapped, up to their
# alignment.
same_mapped() {
    local phase=$1 planned
    shift
    train_words "$phase" "$dir/plain" -q --overwrite "$@"
    "$bin" "${words[@]}"
    train_words "$phase" "$dir/mapped" --overwrite "$@" --map_frozen
    run -0 "$bin" "${words[@]}"
    [[ $output == *' a rank of frozen weights are used where they lie in the model'* ]]
    same_run "$dir/plain" "$dir/mapped"
    planned=$(number mapped_bytes "$dir/mapped" | sort -u) # planned and measured
    [ "$planned" -gt "${least:-1}" ]
    [ "$(number unmapped_bytes "$dir/mapped")" -eq 0 ]
    [ "$(number peak_bytes "$dir/mapped" | head -1)" -eq "$(number allocated_bytes "$dir/mapped")" ]
    [ $((($(number allocated_bytes "$dir/plain") - $(number allocated_bytes "$dir/mapped")) * ${shards:-1})) -ge "$planned" ]
    [ "$(number mapped_bytes "$dir/plain" | sort -u)" -eq 0 ]
}

@test "adapters learn the same bits beside weights in their files" {
    least=150000
    same_mapped sft --max_steps 3 "${adapters[@]}"
    same_mapped reward --max_steps 3 "${adapters[@]}" --gradient_checkpointing
    least=65000
    same_mapped sft --max_steps 3 --lora_dim 4 --dropout 0.1 # biases, norms and embeddings learn
    same_mapped sft --max_steps 3 --model "$home/half" --dtype bf16 "${adapters[@]}"
}

# bats test_tags=long
@test "on two ranks too, whoever shards the rest" {
    for zero in 0 2 3; do
        [ $zero -lt 3 ] || shards=2 # a rank had half of the weights
        same_mapped sft --max_steps 3 --ranks 2 --zero_stage $zero --zero_persistence_threshold 0 "${adapters[@]}"
    done
}

@test "judges of PPO are where their files are, and so is what an actor of adapters shares with its reference" {
    least=300000
    same_mapped ppo --max_steps 2 --frozen_dtype as_run --enable_ema
    same_mapped ppo --max_steps 2 "${adapters[@]}"
    local ranks=(--ranks 2 --generation_batch_size 2 --batch_size 2)
    same_mapped ppo --max_steps 2 "${adapters[@]}" "${ranks[@]}" --int8_generation
    shards=2 same_mapped ppo --max_steps 2 "${adapters[@]}" "${ranks[@]}" --zero_stage 3 --zero_persistence_threshold 0
    train_words ppo "$dir/bf16" -q --max_steps 1 --map_frozen # judges are bf16 there, their files fp32
    run -0 "$bin" "${words[@]}"
    [ "$(number mapped_bytes "$dir/bf16" | sort -u)" -eq 0 ]
    [ "$(number unmapped_bytes "$dir/bf16")" -eq $((2 * (2 * 37696 + 32))) ]
}

@test "a model that only judges or answers is not copied" {
    for phase in sft reward; do
        words=(--model "$home/$([ $phase = sft ] && echo m || echo judge)" --data "$home/data" --max_seq_len 128
            --threads 1 --json)
        [ "$("$bin" eval --phase $phase "${words[@]}" -q --map_frozen)" = "$("$bin" eval --phase $phase "${words[@]}" -q)" ]
    done
    run -0 --separate-stderr "$bin" score "${words[@]}"
    plain=$output
    run -0 --separate-stderr "$bin" score "${words[@]}" --map_frozen
    [ "$output" = "$plain" ]
    [[ $stderr == *'147.4 KiB a rank of frozen weights are used where they lie in the model'* ]]
    words=(generate --prompt "How many" --max_new_tokens 20 --threads 1)
    for type in fp32 bf16; do
        for more in "" "--int8_generation"; do
            plain=$("$bin" "${words[@]}" -q --model "$home/half" --dtype $type $more)
            run -0 --separate-stderr "$bin" "${words[@]}" --model "$home/half" --dtype $type $more --map_frozen
            [ "$output" = "$plain" ]
            [ $type = fp32 ] || [[ $stderr == *'73.6 KiB a rank of frozen weights are used where they lie'* ]]
            [ $type = bf16 ] || [[ $stderr == *'none of the frozen weights, 147.2 KiB a rank, '*' of another type'* ]]
        done
    done
    run -0 "$bin" chat --model "$home/m" --map_frozen -q <<<"How many?"
}

# bats test_tags=long
@test "a killed run resumes in the same bits, with files mapped or copied" {
    kill_and_resume sft "${adapters[@]}" --map_frozen
    sft_cut 9 KILL "$dir/on" "${usual[@]}" "${adapters[@]}" --map_frozen
    sft "$dir/on" -q "${usual[@]}" "${adapters[@]}" --resume
    same_run "$dir/whole" "$dir/on"
}

@test "a plan knows what the files have, and says when it assumes" {
    words=(plan --threads 1 --max_seq_len 128 "${adapters[@]}" --map_frozen)
    run -0 "$bin" "${words[@]}" --model "$home/m"
    [[ $output == *'mapped '*' 147.2 KiB   in the model'*'beside memory'* && $output != *assumed* ]]
    run -0 "$bin" "${words[@]}" --model "$home/m" --dtype bf16
    [[ $output == *'not mapped '*' 73.6 KiB   frozen, but not of the planned type'* ]]
    run -0 "$bin" "${words[@]}" --model opt-125m
    [[ $output == *'477.8 MiB   in the model'*'assumed to be of the planned types'* ]]
    "$bin" plan --threads 1 --max_seq_len 128 --model "$home/m" "${adapters[@]}" --optimize memory 2>"$dir/log" >"$dir/table"
    grep -q -- '--map_frozen is .* less' "$dir/log"
}

shorten() {
    : >"$dir/m/model.safetensors"
}

@test "a file that is written to ends the run that maps it" {
    cp -r "$home/m" "$dir/m"
    touched() { touch "$dir/m/model.safetensors"; }
    train_cut sft 3 touched "$dir/out" "${usual[@]}" "${adapters[@]}" --map_frozen --model "$dir/m" --num_train_epochs 400
    [ "$status" -eq 1 ]
    grep -q "the model's file \"$dir/m/model.safetensors\" was written to while the run used it" "$dir/log"
    grep -q 'go without --map_frozen' "$dir/log"
    rm "$dir/m/model.safetensors" # one that is removed, or replaced by another, stays what it was
    cp "$home/m/model.safetensors" "$dir/m/"
    replaced() { mv "$home/judge/model.safetensors" "$dir/m/"; }
    cp "$home/judge/model.safetensors" "$dir/judge"
    train_cut sft 3 replaced "$dir/two" "${usual[@]}" "${adapters[@]}" --map_frozen --model "$dir/m"
    mv "$dir/judge" "$home/judge/model.safetensors"
    [ "$status" -eq 0 ]
}

@test "so does one that is cut short, with its name" {
    cp -r "$home/m" "$dir/m"
    train_cut sft 3 shorten "$dir/out" "${usual[@]}" "${adapters[@]}" --map_frozen --model "$dir/m" --num_train_epochs 400
    [ "$status" -eq 1 ]
    grep -q "file \"$dir/m/model.safetensors\" became shorter" "$dir/log"
    run -2 sft "$dir/out" --model "$dir/m" --resume
}
