#!/usr/bin/env bats
# Padding that is not worked on, in each phase: the same losses, memory for the largest batch, and what exceeds it refused.

load sft_helpers

setup_file() {
    make_home
    make_judge
}

train() {
    train_words "$@"
    "$bin" "${words[@]}"
}

# $told: what is compared.
losses() {
    grep -oE "\"(actor_|critic_|unsupervised_|eval_)?(${told:-loss|reward|chosen_mean|rejected_mean})\":[-0-9.e+]*" \
        "$1/metrics.jsonl" | cut -d: -f2
}

# Every number of the second run is within 1e-4 of its size: weights learn, and sums have another order.
alike() {
    [ "$(losses "$1" | wc -l)" -ge "$3" ]
    paste <(losses "$1") <(losses "$2") | awk '
        { if (($1 - $2) ^ 2 > (1e-4 * (0.1 + ($1 < 0 ? -$1 : $1))) ^ 2) { print "line " NR ": " $1 " and " $2; bad = 1 } }
        END { exit bad }'
}

planned() {
    tr -d ' \n' <"$1/run.json" | grep -o '"activation":[0-9]*' | head -1 | cut -d: -f2
}

@test "texts and pairs learn alike, in less memory" {
    local with=(-q --max_steps 6 --dropout 0.1 --learning_rate 1e-3)
    "$bin" model new -q --size opt-tiny --hidden_size 32 --ffn_dim 64 --num_hidden_layers 2 --num_attention_heads 4 \
        --word_embed_proj_dim 32 --max_position_embeddings 512 --tokenizer "$home/tok" "$dir/long"
    with+=(--model "$dir/long" --max_seq_len 512)
    for phase in sft reward; do
        train $phase "$dir/whole" "${with[@]}" --pad_to_max --overwrite
        train $phase "$dir/packed" "${with[@]}" --remove_padding --overwrite
        alike "$dir/whole" "$dir/packed" 6
        [ "$(planned "$dir/packed")" -lt "$(planned "$dir/whole")" ]
    done
}

@test "DeepSpeed-Chat's loss of pairs reads padding, which stays" {
    local with=(-q --max_steps 6 --convention deepspeed-chat --learning_rate 1e-3)
    train reward "$dir/whole" "${with[@]}"
    train reward "$dir/packed" "${with[@]}" --remove_padding
    alike "$dir/whole" "$dir/packed" 6
}

# The last norm's bias moves both scores of a pair alike: its gradient is 0 but for rounding, which AdamW makes steps of.
@test "prompts of pairs are computed once" {
    local told=loss with=(-q --max_steps 6 --dropout 0 --learning_rate 1e-3)
    for convention in tuneup deepspeed-chat; do
        train reward "$dir/apart" "${with[@]}" --convention $convention --remove_padding --overwrite
        train reward "$dir/shared" "${with[@]}" --convention $convention --remove_padding --share_prompts --overwrite
        alike "$dir/apart" "$dir/shared" 6
        [ "$(planned "$dir/shared")" -lt "$(planned "$dir/apart")" ]
    done
    run -2 train reward "$dir/out" --share_prompts --dropout 0.1
    [[ $output == *'--share_prompts with dropout 0.1'* ]]
}

@test "PPO learns alike, with and without answers that end early" {
    local with=(-q --max_steps 4 --ppo_epochs 2 --actor_dropout 0.1 --temperature 0 --unsupervised_data "$home/data/train.jsonl")
    train ppo "$dir/whole" "${with[@]}" --pad_to_max
    train ppo "$dir/packed" "${with[@]}" --remove_padding
    alike "$dir/whole" "$dir/packed" 12
    train ppo "$dir/reference" "${with[@]}" --convention deepspeed-chat
    train ppo "$dir/packed2" "${with[@]}" --convention deepspeed-chat --remove_padding
    alike "$dir/reference" "$dir/packed2" 12
}

@test "two ranks are as one" {
    train sft "$dir/one" -q --max_steps 4 --remove_padding --gradient_checkpointing
    train sft "$dir/two" -q --max_steps 4 --remove_padding --ranks 2 --batch_size 4 --zero_stage 1
    [ "$(losses "$dir/two" | wc -l)" -ge 4 ]
}

# bats test_tags=long
@test "a killed run resumes in the same bits" {
    kill_and_resume sft --remove_padding
}

@test "more than --max_packed_tokens is refused before work begins, and less memory is planned" {
    run -2 train sft "$dir/out" --max_steps 2 --remove_padding --max_packed_tokens 64
    [[ $output == *'--max_packed_tokens is 64, but a batch has '* ]]
    [ ! -e "$dir/out" ]
    run -0 "$bin" plan sft --model "$home/m" --max_seq_len 128 --batch_size 8 --remove_padding --json
    whole=$(tr -d ' \n' <<<"$output" | grep -o '"activation":[0-9]*' | cut -d: -f2)
    run -0 "$bin" plan sft --model "$home/m" --max_seq_len 128 --batch_size 8 --remove_padding --max_packed_tokens 512 --json
    half=$(tr -d ' \n' <<<"$output" | grep -o '"activation":[0-9]*' | cut -d: -f2)
    [ "$half" -lt $((whole * 6 / 10)) ]
}

@test "scores and evaluations are the same" {
    for words in "" --remove_padding; do
        "$bin" score --model "$home/judge" --data "$home/data/eval.jsonl" --max_seq_len 128 $words >>"$dir/scores"
        "$bin" eval --phase reward --model "$home/judge" --data "$home/data/eval.jsonl" --max_seq_len 128 --json $words |
            grep -o '"loss": *[0-9.]*' >>"$dir/eval"
    done
    [ "$(wc -l <"$dir/scores")" -eq 16 ]
    paste <(head -8 "$dir/scores" | tr ',}' '\n\n' | grep chosen) <(tail -8 "$dir/scores" | tr ',}' '\n\n' | grep chosen) |
        sed 's/"chosen"://g' | awk '{ if (($1 - $2) ^ 2 > 1e-8) { print $1, $2; exit 1 } }'
    awk -F: '{ split($2, a, " "); if (NR == 1) first = a[1]; else if ((first - a[1]) ^ 2 > 1e-10) exit 1 }' "$dir/eval"
}
