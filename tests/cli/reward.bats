#!/usr/bin/env bats
# A reward model from the command line: trained, evaluated, asked for scores, and refused where it does not belong.

load sft_helpers

reward() {
    train_words reward "$@"
    "$bin" "${words[@]}"
}

setup_file() {
    make_home
    reward "$home/run" -q --num_train_epochs 2 --eval_batches -1 --eval_interval 5
}

# value KEY: of the JSON in $output
value() {
    sed -n 's/.*"'"$1"'": \([-0-9.e]*\).*/\1/p' <<<"$output"
}

@test "a run tells loss, accuracy and scores of every update and evaluation" {
    [ "$(grep -cE '^\{"step":[0-9]+,"phase":"reward","loss":[0-9.]+,"lr":[0-9.e-]+,"grad_norm":[0-9.]+,"tokens":[0-9]+,"seconds":[0-9.e-]+,"joules":(null|[0-9.]+),"peak_bytes":[0-9]+,"accuracy":[0-9.]+,"chosen_mean":[-0-9.e]+,"rejected_mean":[-0-9.e]+,"margin":[-0-9.e]+\}$' \
        "$home/run/metrics.jsonl")" -eq 16 ]
    [ "$(grep -cE '^\{"step":[0-9]+,"phase":"reward","eval_loss":[0-9.]+,"eval_accuracy":[0-9.]+,"eval_chosen_mean":[-0-9.e]+,"eval_rejected_mean":[-0-9.e]+,"eval_margin":[-0-9.e]+\}$' \
        "$home/run/metrics.jsonl")" -eq 6 ] # at 0, 5, 8, 10, 15, 16
    for key in phase options versions machine seed planned measured techniques records; do
        grep -q "^  \"$key\": " "$home/run/run.json"
    done
    tr -d ' \n' <"$home/run/run.json" >"$dir/flat"
    grep -qE '"learning_rate":\{"value":5[.0-9]*e-5,"origin":"default"\}' "$dir/flat"
    grep -q '"reward_loss":{"value":"auto","origin":"default"}' "$dir/flat"
    grep -q '"eval_accuracy":' "$dir/flat"
}

@test "the model is in DeepSpeed-Chat's form" {
    head -c 6000 "$home/run/model.safetensors" >"$dir/head"
    for name in v_head.weight rwtransformer.decoder.embed_tokens.weight rwtransformer.decoder.layers.1.fc2.bias; do
        grep -qa "\"$name\"" "$dir/head"
    done
    ! grep -qa -e '"lm_head' -e '"model.decoder' "$dir/head" || false
    run -0 "$bin" model info "$home/run"
    [[ $output == *'reward model'* ]]
}

@test "the model that is left gives the figures that the run told" {
    told=$(grep '"eval_loss"' "$home/run/metrics.jsonl" | tail -1)
    run -0 --separate-stderr "$bin" eval -q --phase reward --model "$home/run" --data "$home/data" --max_seq_len 128 --json
    [ "$(wc -l <<<"$output")" -eq 1 ]
    for key in loss accuracy chosen_mean rejected_mean; do
        near "$(value $key)" "$(sed 's/.*"eval_'$key'":\([-0-9.e]*\).*/\1/' <<<"$told")" 1e-6
    done
    [ "$(value records)" -eq 8 ]
    loss=$(value loss)
    no_leaks_of_mpi
    run -0 --separate-stderr "$bin" eval -q --phase reward --model "$home/run" --data "$home/data" --max_seq_len 128 \
        --json --ranks 2 --per_device_eval_batch_size 3
    near "$(value loss)" "$loss" 1e-5 # means over pairs do not depend on batches
}

@test "scores are those of the evaluation, whatever ranks and batches" {
    run -0 --separate-stderr "$bin" eval -q --phase reward --model "$home/run" --data "$home/data" --max_seq_len 128 --json
    chosen=$(value chosen_mean) rejected=$(value rejected_mean) accuracy=$(value accuracy)
    "$bin" score -q --model "$home/run" --data "$home/data" --max_seq_len 128 >"$dir/scores"
    [ "$(grep -cE '^\{"index": [0-7], "chosen": [-0-9.e]+, "rejected": [-0-9.e]+\}$' "$dir/scores")" -eq 8 ]
    read -r c r a < <(awk -F'[:,}]' '{ c += $4; r += $6; a += $4 > $6 + 1e-6 } END { printf "%.9g %.9g %.9g\n", c / NR, r / NR, a / NR }' \
        "$dir/scores")
    near "$c" "$chosen" 1e-5
    near "$r" "$rejected" 1e-5
    near "$a" "$accuracy" 1e-9
    no_leaks_of_mpi
    "$bin" score -q --model "$home/run" --data "$home/data" --max_seq_len 128 --ranks 2 --per_device_eval_batch_size 3 >"$dir/two"
    paste -d' ' <(awk -F'[:,}]' '{ print $4; print $6 }' "$dir/scores") <(awk -F'[:,}]' '{ print $4; print $6 }' "$dir/two") >"$dir/pairs"
    [ "$(wc -l <"$dir/pairs")" -eq 16 ]
    while read -r x y; do near "$x" "$y" 1e-5; done <"$dir/pairs"
}

@test "records of one text have one score, and bad ones are told" {
    printf '{"prompt": "hel"}\n{"text": "hello"}\n{"prompt": "hel", "chosen": "lo"}\n' >"$dir/texts.jsonl"
    run -0 --separate-stderr "$bin" score -q --model "$home/run" --data "$dir/texts.jsonl" --max_seq_len 128
    [[ ${lines[0]} == '{"index": 0, "score": '* ]]
    [ "${lines[1]#*score}" = "${lines[2]#*score}" ]
    [ "${lines[0]#*score}" != "${lines[1]#*score}" ]
    run -0 --separate-stderr "$bin" score --model "$home/run" --data "$dir/texts.jsonl" --max_seq_len 8
    [[ $stderr == *'texts have more than 8 ids and are scored where they are cut'* ]]
    printf '{"prompt": "x", "rejected": "y"}\n' >>"$dir/texts.jsonl"
    run -2 "$bin" score --model "$home/run" --data "$dir/texts.jsonl" --max_seq_len 128
    [[ $output == *'a record has no "chosen"'*"file \"$dir/texts.jsonl\", line 4"* ]]
    run -0 --separate-stderr "$bin" score --model "$home/run" --data "$dir/texts.jsonl" --max_seq_len 128 --skip_bad_records
    [ "${#lines[@]}" -eq 3 ]
    [[ $stderr == *'1 faulty records were left out:'*'line 4: a record has no "chosen"'* ]]
}

@test "each kind of model is refused where the other is needed" {
    run -2 "$bin" sft --model "$home/run" --data "$home/data" --max_seq_len 128 --output "$dir/out"
    [[ $output == *"the model in \"$home/run\" is a reward model (it has v_head.weight), a language model is needed"*'hint: '* ]]
    [ ! -e "$dir/out" ]
    run -2 "$bin" eval --model "$home/run" --data "$home/data" --max_seq_len 128
    [[ $output == *'is a reward model'* ]]
    for words in "eval --phase reward" score; do
        run -2 "$bin" $words --model "$home/m" --data "$home/data" --max_seq_len 128
        [[ $output == *"the model in \"$home/m\" is a language model: it has no v_head.weight to score with"*'tuneup reward'* ]]
    done
}

@test "data without pairs is refused by file, line and field; equal pairs are counted" {
    sed '7s/"rejected"/"rejectd"/' "$home/data/train.jsonl" >"$dir/lines.jsonl"
    run -2 reward "$dir/out" --data "$dir/lines.jsonl" --data_split 0,1,0
    [[ $output == *'a record has no "rejected"'*"file \"$dir/lines.jsonl\", line 7"*'--skip_bad_records'* ]]
    [ ! -e "$dir/out" ]
    printf '{"prompt": "a", "chosen": "b", "rejected": "%s"}\n' b c >"$dir/two.jsonl"
    run -0 "$bin" eval --phase reward --model "$home/run" --data "$dir/two.jsonl" --max_seq_len 128
    [[ $output == *'1 of 2 pairs are twice the same text'* ]]
}

@test "plan is what the run allocates, and a limit names what would fit" {
    train_words reward "$dir/out" --max_steps 1
    run -0 --separate-stderr "$bin" "${words[@]}" -q --json
    allocated=$(value allocated_bytes)
    run -0 --separate-stderr "$bin" plan "${words[@]}" --json
    [ "$(value peak_bytes)" = "$allocated" ]
    run -3 "$bin" plan reward --model opt-1.3b --batch_size 8 --memory_limit 24GiB
    [[ $output == *'--gradient_checkpointing'*'would fit, with '* ]]
}
