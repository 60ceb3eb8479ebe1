#!/usr/bin/env bats
# Optimizer state in files: the same bits, with the memory of a smaller run, and nothing left whatever ends it.

load sft_helpers

pieces=(--offload --offload_piece 4096)

# bats test_tags=long
@test "a killed run resumes in the same bits, and leaves nothing but checkpoints" {
    kill_and_resume sft --dtype bf16 "${pieces[@]}"
    ! ls -A "$dir/killed" | grep -q offload
}

# bats test_tags=long
@test "so does a rank of two, with ZeRO-1 and moments in 8 bits" {
    who=rank kill_and_resume sft --ranks 2 --zero_stage 1 --optimizer_bits 8 --num_train_epochs 14 "${pieces[@]}"
}

@test "a run begun in memory goes on in files, and back" {
    sft "$dir/whole" -q "${usual[@]}" --dtype bf16
    sft_cut 9 KILL "$dir/in" "${usual[@]}" --dtype bf16
    sft "$dir/in" -q "${usual[@]}" --dtype bf16 --resume "${pieces[@]}"
    same_run "$dir/whole" "$dir/in"
    sft_cut 9 KILL "$dir/out" "${usual[@]}" --dtype bf16 "${pieces[@]}"
    sft "$dir/out" -q "${usual[@]}" --dtype bf16 --resume
    same_run "$dir/whole" "$dir/out"
}

@test "the folder is chosen, and is empty after" {
    mkdir "$dir/disk"
    run -0 sft "$dir/out" --offload --offload_dir "$dir/disk"
    [[ $output == *"beside it "*" a rank are in files in $dir/disk"* ]]
    [ -z "$(ls -A "$dir/disk")" ]
    bytes=$(sed -n 's/.*"allocated_file_bytes": \([0-9]*\).*/\1/p' "$dir/out/run.json")
    [ "$bytes" -ge $((8 * 37696)) ]
    [ "$bytes" -lt $((8 * 37696 + 4 * 4096)) ]
    grep -q "\"file_bytes\": $bytes" "$dir/out/run.json"
    run -1 sft "$dir/out2" --offload --offload_dir "$dir/nowhere"
    [[ $output == *"could not create the offload file in \"$dir/nowhere\""*'--offload_dir'* ]]
}

# trained PHASE OUTPUT WORDS...
trained() {
    train_words "$@" -q
    "$bin" "${words[@]}"
}

@test "the other phases train in the same bits, all models or one" {
    trained reward "$dir/judge" --max_steps 3
    trained reward "$dir/offloaded" --max_steps 3 "${pieces[@]}"
    same_run "$dir/judge" "$dir/offloaded"
    cp -r "$dir/judge" "$home/judge"
    for phase_words in "--dtype bf16" "--enable_ema"; do
        trained ppo "$dir/plain" --max_steps 2 --overwrite $phase_words
        for offload in "--offload --offload_piece 4096" "--critic_offload" "--offload --no-actor_offload"; do
            trained ppo "$dir/files" --max_steps 2 --overwrite $phase_words $offload
            same_run "$dir/plain" "$dir/files"
            run -0 grep -q '"allocated_file_bytes": [1-9]' "$dir/files/run.json"
        done
    done
    train_words ppo "$dir/two" --offload --actor_offload_dir "$dir" --critic_offload_dir "$home"
    run -2 "$bin" "${words[@]}"
    [[ $output == *'--offload_dir is '*' for one model and '*' for another'* ]]
}

@test "weights of models that only score are read from files, to the same bits" {
    tiny_model "$dir/wide" --hidden_size 128 --word_embed_proj_dim 128 --ffn_dim 256 # what is not small is moved
    train_words reward "$dir/wide_judge" -q --max_steps 2
    "$bin" "${words[@]}" --model "$dir/wide"
    for phase in sft reward; do
        words=(eval --phase $phase --data "$home/data" --max_seq_len 128 --batch_size 4 --threads 1 --json)
        words+=(--model "$dir/$([ $phase = sft ] && echo wide || echo wide_judge)")
        run -0 --separate-stderr "$bin" "${words[@]}"
        plain=$output
        run -0 --separate-stderr "$bin" "${words[@]}" --offload_params --offload_dir "$dir"
        [ "$output" = "$plain" ]
        run -2 "$bin" "${words[@]}" --offload_params
        [[ $output == *'there is no folder for what is offloaded'*'--offload_dir'* ]] # nothing is written by an evaluation
    done
    with=(--reference_model_name_or_path "$dir/wide" --reward_model_name_or_path "$dir/wide_judge" --max_steps 2)
    [ -e "$home/judge" ] || trained reward "$home/judge" --max_steps 3
    for more in "--frozen_dtype as_run" "--ranks 2 --generation_batch_size 2 --batch_size 2"; do
        trained ppo "$dir/plain" "${with[@]}" $more --overwrite
        trained ppo "$dir/files" "${with[@]}" $more --overwrite --offload_reference_model --offload_reward_model
        same_run "$dir/plain" "$dir/files"
        run -0 grep -q '"allocated_file_bytes": [1-9]' "$dir/files/run.json"
    done
    run -2 sft "$dir/out" --offload_params
    [[ $output == *'--offload_params alone is not supported for a model that learns'*'Add --offload'* ]]
    run -2 trained ppo "$dir/out" --offload --offload_params
    [[ $output == *'not supported for a model that answers'*'--critic_offload_params'* ]]
    run -2 sft "$dir/out" --ranks 2 --zero_stage 1 --offload --offload_params
    [[ $output == *'weights in shards over the ranks cannot be offloaded'* ]]
}

# bats test_tags=long
@test "so are weights that learn, killed and gone on with, to the same bits" {
    kill_and_resume sft --dtype bf16 --gradient_checkpointing "${pieces[@]}" --offload_params
    sft "$dir/plain" -q "${usual[@]}" --dtype bf16 --gradient_checkpointing
    same_run "$dir/plain" "$dir/killed"
    sft "$dir/two" -q "${usual[@]}" --ranks 2 --num_train_epochs 3
    sft "$dir/two_files" -q "${usual[@]}" --ranks 2 --num_train_epochs 3 "${pieces[@]}" --offload_params --optimizer_bits 8
    sft "$dir/two_8" -q "${usual[@]}" --ranks 2 --num_train_epochs 3 --optimizer_bits 8
    same_run "$dir/two_8" "$dir/two_files"
    [ -e "$home/judge" ] || trained reward "$home/judge" --max_steps 3
    trained ppo "$dir/ppo" --max_steps 2
    trained ppo "$dir/ppo_files" --max_steps 2 --critic_offload --critic_offload_params
    same_run "$dir/ppo" "$dir/ppo_files"
}

# What a plan takes, and the 256 MiB for the process beside it.
needs() {
    local bytes
    bytes=$("$bin" plan sft --model "$dir/m" --max_seq_len 128 --eval_batches 0 --threads 1 --json "$@" | sed -n 's/.*"peak_bytes": \([0-9]*\).*/\1/p')
    echo $((bytes + (256 << 20)))
}

@test "what does not fit into memory trains with its state in files" {
    tiny_model "$dir/m" --hidden_size 256 --word_embed_proj_dim 256 --ffn_dim 1024
    local words=(--model "$dir/m" --data "$home/data" --data_split 1,0,0 --max_seq_len 128 --batch_size 1 --eval_batches 0
        --max_steps 2 --gradient_checkpointing --dtype bf16 --threads 1 -q)
    local limit
    limit=$(needs --batch_size 1 --gradient_checkpointing --dtype bf16 --offload)
    run -3 "$bin" sft "${words[@]}" --output "$dir/out" --memory_limit "$limit"
    [[ $output == *'hint: --offload ('*' less) would fit, with '* ]]
    [ ! -e "$dir/out" ]
    run -0 "$bin" sft "${words[@]}" --output "$dir/out" --memory_limit "$limit" --offload
    run -0 "$bin" sft "${words[@]}" --output "$dir/plain"
    same_run "$dir/plain" "$dir/out"
    run -3 "$bin" sft "${words[@]}" --output "$dir/out" --overwrite --memory_limit $((limit - 1)) --offload
}

@test "a full disk is told before the run begins" {
    run -1 bash -c 'source "$1"; ulimit -f 64; trap "" XFSZ; sft "$2" -q --offload' - "$BATS_TEST_DIRNAME/sft_helpers.bash" "$dir/out"
    [[ $output == *"could not reserve "*" bytes for the offload file in \"$dir/out\""*'File too large'*'--offload_dir'* ]]
    [ ! -e "$dir/out/model.safetensors" ]
    run -2 sft "$dir/out2" --offload --offload_piece -1
}
