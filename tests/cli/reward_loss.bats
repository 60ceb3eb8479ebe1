#!/usr/bin/env bats
# The forms of the loss of pairs, and that runs repeat.

load sft_helpers

reward() {
    train_words reward "$@"
    "$bin" "${words[@]}"
}

setup_file() {
    make_home
    reward "$home/run" -q --num_train_epochs 2 --eval_batches 1
}

@test "every form of the loss learns its own data, from a language or a reward model" {
    for form in masked deepspeed-chat end; do
        reward "$dir/$form" -q --model "$home/run" --reward_loss $form --learning_rate 3e-3 --max_steps 48 \
            --lr_scheduler_type constant --eval_batches 0
        first=$(head -1 "$dir/$form/metrics.jsonl" | sed 's/.*"loss":\([0-9.]*\).*/\1/')
        last=$(grep '"loss"' "$dir/$form/metrics.jsonl" | tail -1 | sed 's/.*"loss":\([0-9.]*\).*/\1/')
        awk -v a="$first" -v b="$last" 'BEGIN { exit !(b < 0.9 * a) }'
    done
    run -1 cmp -s "$dir/masked/model.safetensors" "$dir/end/model.safetensors"
    reward "$dir/named" -q --convention deepspeed-chat --max_steps 2
    reward "$dir/default" -q --convention deepspeed-chat --max_steps 2 --reward_loss deepspeed-chat
    same_run "$dir/named" "$dir/default"
}

@test "runs repeat bit for bit, and another seed makes another head" {
    reward "$dir/again" -q --num_train_epochs 2 --eval_batches 1
    same_run "$home/run" "$dir/again"
    reward "$dir/other" -q --max_steps 1 --learning_rate 0 --seed 5
    reward "$dir/first" -q --max_steps 1 --learning_rate 0
    run -1 cmp -s "$dir/first/model.safetensors" "$dir/other/model.safetensors"
}
